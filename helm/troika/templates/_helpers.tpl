{{- define "troika.name" -}}
{{ printf "%s-%s" .root.Release.Name .service | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "troika.selector" -}}
app.kubernetes.io/name: troika
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .service }}
{{- end }}

{{- define "troika.labels" -}}
{{ include "troika.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "troika.image" -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{ .root.Values.image.repository }}-{{ .service }}{{ if hasPrefix "sha256:" $tag }}@{{ else }}:{{ end }}{{ $tag }}
{{- end }}

{{/* Who may call each service, as the settings of the services list them (tests/house/test_chart.py holds the two together). */}}
{{- define "troika.callers" -}}
identity: [tags, touchpoints]
tags: [orchestrator, scoring, touchpoints]
scoring: [orchestrator, touchpoints]
orchestrator: [touchpoints]
touchpoints: []
{{- end }}

{{/* The environment of a service: what all have, then what is its own. */}}
{{- define "troika.env" -}}
{{- $root := .root -}}
{{- $env := dict
  "TROIKA_NATS_REPLICAS" (toString $root.Values.nats.replicas)
  "TROIKA_BIND_HOST" "0.0.0.0"
  "TROIKA_GRPC_PORT" "7000"
  "TROIKA_HTTP_PORT" "7100"
  "TROIKA_GRPC_REFLECTION" "false"
-}}
{{- range $peer := list "identity" "tags" "scoring" "orchestrator" "touchpoints" -}}
{{- $_ := set $env (printf "TROIKA_%s_TARGET" (upper $peer)) (printf "dns:///%s:7000" (include "troika.name" (dict "root" $root "service" $peer))) -}}
{{- end -}}
{{- if $root.Values.trial.enabled -}}
{{- $_ := set $env "TROIKA_NATS_URL" (printf "nats://%s-trial-nats:4222" $root.Release.Name) -}}
{{- $_ := set $env "TROIKA_NATS_REPLICAS" "1" -}}
{{- else if not $root.Values.nats.existingSecret -}}
{{- $_ := set $env "TROIKA_NATS_URL" $root.Values.nats.url -}}
{{- end -}}
{{- if $root.Values.nats.caSecret -}}
{{- $_ := set $env "TROIKA_NATS_CA_FILE" "/etc/troika/nats/ca.crt" -}}
{{- end -}}
{{- if $root.Values.postgres.caSecret -}}
{{- $_ := set $env "PGSSLMODE" "verify-full" -}}
{{- $_ := set $env "PGSSLROOTCERT" "/etc/troika/postgres/ca.crt" -}}
{{- end -}}
{{- if $root.Values.tls.enabled -}}
{{- $_ := set $env "TROIKA_TLS_FOLDER" "/etc/troika/tls" -}}
{{- if has .service $root.Values.tls.tokenPort.services -}}
{{- $_ := set $env "TROIKA_TOKEN_GRPC_PORT" (toString $root.Values.tls.tokenPort.port) -}}
{{- end -}}
{{- end -}}
{{- with $root.Values.otlpEndpoint -}}
{{- $_ := set $env "OTEL_EXPORTER_OTLP_ENDPOINT" . -}}
{{- end -}}
{{- $own := index $root.Values .service -}}
{{- $env = mergeOverwrite $env .particular $root.Values.env $own.env -}}
{{- toYaml $env -}}
{{- end }}

{{/* Variables that come from Secrets. */}}
{{- define "troika.secrets" -}}
{{- $root := .root -}}
{{- $login := (index $root.Values .service).login | default dict }}
{{- $privileged := and .migrating $root.Values.migrations.existingSecret }}
- name: TROIKA_POSTGRES_DSN
  valueFrom:
    secretKeyRef:
      name: {{ $privileged | default $login.existingSecret | default $root.Values.postgres.existingSecret }}
      key: {{ ternary $root.Values.postgres.key ($login.key | default $root.Values.postgres.key) (not (empty $privileged)) }}
{{- with $root.Values.nats.existingSecret }}
- name: TROIKA_NATS_URL
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $root.Values.nats.key }}}
{{- end }}
- name: TROIKA_CALLER_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ $root.Values.callers.existingSecret }}, key: {{ .service }}}
- name: TROIKA_CALLER_TOKEN_SHA256
  valueFrom:
    secretKeyRef: {name: {{ $root.Values.callers.existingSecret }}, key: hashes}
{{- range $variable, $from := (index $root.Values .service).secrets }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef: {name: {{ $from.name }}, key: {{ $from.key }}}
{{- end }}
{{- end }}

{{/* Who signed the certificates of PostgreSQL and NATS. */}}
{{- define "troika.authorityMounts" -}}
{{- range list "postgres" "nats" }}
{{- if (index $.root.Values .).caSecret }}
- {name: {{ . }}-ca, mountPath: /etc/troika/{{ . }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "troika.authorities" -}}
{{- range $server := list "postgres" "nats" }}
{{- with (index $.root.Values $server).caSecret }}
- name: {{ $server }}-ca
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}], defaultMode: 0440}
{{- end }}
{{- end }}
{{- end }}

{{- define "troika.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What all pods of ours say. Called with (dict "root" $). */}}
{{- define "troika.podBasics" -}}
{{- with .root.Values -}}
enableServiceLinks: false
securityContext: {{- toYaml .podSecurityContext | nindent 2 }}
{{- with .image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The container that migrates, of a Job or before a pod's own. */}}
{{- define "troika.migrate" -}}
name: migrate
image: {{ include "troika.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [python, -m, services.{{ .service }}, migrate{{ if .post }}, --post{{ end }}]
securityContext: {{- include "troika.securityContext" . | nindent 2 }}
# The Job comes before the ConfigMap, so the variables stand here.
env:
  {{- range $variable, $value := include "troika.env" . | fromYaml }}
  {{- if not (eq $variable "TROIKA_TLS_FOLDER") }}
  - {name: {{ $variable }}, value: {{ $value | quote }}}
  {{- end }}
  {{- end }}
  {{- include "troika.secrets" (merge (dict "migrating" true) .) | nindent 2 }}
resources: {{- toYaml .root.Values.migrations.resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- include "troika.authorityMounts" . | nindent 2 }}
{{- end }}

{{- define "troika.migratesInPods" -}}
{{- if or .Values.migrations.inPods .Values.trial.enabled }}yes{{ end }}
{{- end }}

{{/* On pods that come and go: migrations, jobs, tests. One policy is for all of them. */}}
{{- define "troika.batchLabels" -}}
app.kubernetes.io/name: troika
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
troika/batch: "true"
{{- end }}

{{/* Where PostgreSQL and NATS are, for policies. */}}
{{- define "troika.postgres" -}}
{{- if .Values.trial.enabled }}
port: 5432
podSelector: {matchLabels: {app.kubernetes.io/instance: {{ .Release.Name }}, app.kubernetes.io/component: trial-postgres}}
{{- else }}
{{- .Values.postgres | toYaml }}
{{- end }}
{{- end }}
{{- define "troika.nats" -}}
{{- if .Values.trial.enabled }}
port: 4222
podSelector: {matchLabels: {app.kubernetes.io/instance: {{ .Release.Name }}, app.kubernetes.io/component: trial-nats}}
{{- else }}
{{- .Values.nats | toYaml }}
{{- end }}
{{- end }}

{{/* Whom a pod may reach on PostgreSQL or NATS: pods of the selector, networks, or anybody on that port. */}}
{{- define "troika.egress" -}}
- ports: [{protocol: TCP, port: {{ .port }}}]
  {{- if or .podSelector .cidrs }}
  to:
    {{- with .podSelector }}
    - namespaceSelector: {}
      podSelector: {{- toYaml . | nindent 8 }}
    {{- end }}
    {{- range .cidrs }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  {{- end }}
{{- end }}

{{/* The doors that face the world; probes and metrics do not. */}}
{{- define "troika.publicPaths" -}}
{{- range list "/v1" "/webhooks" "/wechat" "/wecom" "/contacts" "/unsubscribe" "/preferences" "/sms" "/arrivals" "/debug" }}
- path: {{ . }}
  pathType: Prefix
  backend: {service: {name: SERVICE, port: {name: http}}}
{{- end }}
{{- range list "/sa" "/sa.gif" "/openapi.json" }}
- path: {{ . }}
  pathType: Exact
  backend: {service: {name: SERVICE, port: {name: http}}}
{{- end }}
{{- end }}
