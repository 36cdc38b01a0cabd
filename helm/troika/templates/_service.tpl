{{/*
Everything of one service. Called with (dict "root" $ "service" "identity" "particular" (dict …variables of this service)),
and for a service that has them "egress" (further rules) and "public" (its HTTP doors face the world).
*/}}
{{- define "troika.service" -}}
{{- $root := .root -}}
{{- $service := .service -}}
{{- $own := index $root.Values $service -}}
{{- $name := include "troika.name" . -}}
{{- $scope := . -}}
{{- $tokens := and $root.Values.tls.enabled (has $service $root.Values.tls.tokenPort.services) -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  labels: {{- include "troika.labels" . | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels: {{- include "troika.labels" . | nindent 4 }}
data: {{- include "troika.env" . | nindent 2 }}
---
{{- $deployment := include "troika.deployment" . | fromYaml }}
{{- with $deployment.Error }}{{ fail . }}{{ end }}
{{ mergeOverwrite $deployment ($own.merge | default dict) | toYaml }}
---
# Headless: a gRPC channel resolves every pod and balances over them by itself.
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels: {{- include "troika.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector: {{- include "troika.selector" . | nindent 4 }}
  ports:
    - {name: grpc, port: 7000, targetPort: grpc}
    - {name: metrics, port: 7100, targetPort: http}
    {{- if $tokens }}
    - {name: grpc-tokens, port: {{ $root.Values.tls.tokenPort.port }}, targetPort: grpc-tokens}
    {{- end }}
{{- if .public }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}-web
  labels: {{- include "troika.labels" . | nindent 4 }}
spec:
  selector: {{- include "troika.selector" . | nindent 4 }}
  ports:
    - {name: http, port: 80, targetPort: http}
{{- end }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels: {{- include "troika.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "troika.selector" . | nindent 6 }}
{{- if $own.autoscaling.enabled }}
---
{{- if $root.Values.autoscaling.keda }}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $name }}
  labels: {{- include "troika.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {name: {{ $name }}}
  minReplicaCount: {{ $own.autoscaling.minReplicas }}
  maxReplicaCount: {{ $own.autoscaling.maxReplicas }}
  triggers:
    - type: cpu
      metricType: Utilization
      metadata: {value: {{ $own.autoscaling.cpu | quote }}}
    {{- range $own.consumers }}
    - type: nats-jetstream
      metadata:
        natsServerMonitoringEndpoint: {{ $root.Values.autoscaling.natsMonitoring | quote }}
        account: {{ $root.Values.autoscaling.natsAccount | quote }}
        stream: {{ .stream }}
        consumer: {{ .name }}
        lagThreshold: {{ $root.Values.autoscaling.lag | quote }}
    {{- end }}
{{- else }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name }}
  labels: {{- include "troika.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ $name }}}
  minReplicas: {{ $own.autoscaling.minReplicas }}
  maxReplicas: {{ $own.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ $own.autoscaling.cpu }}}}
    {{- if $root.Values.autoscaling.lagMetric }}
    {{- range $own.consumers }}
    - type: External
      external:
        metric:
          name: {{ $root.Values.autoscaling.lagMetric }}
          selector: {matchLabels: {namespace: {{ $root.Release.Namespace }}, consumer: {{ .name }}}}
        target: {type: AverageValue, averageValue: {{ $root.Values.autoscaling.lag | quote }}}
    {{- end }}
    {{- end }}
{{- end }}
{{- end }}
{{- if $root.Values.networkPolicy.enabled }}
---
{{ include "troika.networkPolicy" . }}
{{- end }}
{{- if and $root.Values.tls.enabled $root.Values.tls.issuer.name }}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ $name }}
  labels: {{- include "troika.labels" . | nindent 4 }}
spec:
  secretName: {{ $name }}-tls
  duration: {{ $root.Values.tls.duration }}
  renewBefore: {{ $root.Values.tls.renewBefore }}
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  usages: [server auth, client auth]
  # The URI says who calls; the names are for finding the server.
  uris: ["spiffe://troika/{{ $service }}"]
  dnsNames:
    - {{ $name }}
    - {{ $name }}.{{ $root.Release.Namespace }}
    - {{ $name }}.{{ $root.Release.Namespace }}.svc
    - {{ $name }}.{{ $root.Release.Namespace }}.svc.cluster.local
  issuerRef: {{- toYaml $root.Values.tls.issuer | nindent 4 }}
{{- end }}
{{- if $root.Values.monitoring.serviceMonitor }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ $name }}
  labels: {{- merge (include "troika.labels" . | fromYaml) $root.Values.monitoring.labels | toYaml | nindent 4 }}
spec:
  selector:
    matchLabels: {{- include "troika.selector" . | nindent 6 }}
  endpoints:
    - {port: metrics, path: /metrics, interval: {{ $root.Values.monitoring.interval }}}
{{- end }}
{{- if not (include "troika.migratesInPods" $root) }}
---
{{ include "troika.migration" . }}
{{- end }}
{{- if $root.Values.migrations.post }}
---
{{ include "troika.migration" (merge (dict "post" true) .) }}
{{- end }}
{{- end }}

{{- define "troika.deployment" -}}
{{- $root := .root -}}
{{- $own := index $root.Values .service -}}
{{- $name := include "troika.name" . -}}
{{- $scope := . -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{- include "troika.labels" . | nindent 4 }}
spec:
  {{- if not $own.autoscaling.enabled }}
  replicas: {{ $own.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  selector:
    matchLabels: {{- include "troika.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "troika.labels" . | nindent 8 }}
      annotations:
        checksum/config: {{ include "troika.env" . | sha256sum }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      # Longer than the services take to let go of calls, batches and leases.
      terminationGracePeriodSeconds: 45
      {{- include "troika.podBasics" . | nindent 6 }}
      {{- with $root.Values.topologySpread }}
      topologySpreadConstraints:
        {{- range . }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "troika.selector" $scope | nindent 14 }}
        {{- end }}
      {{- end }}
      {{- if include "troika.migratesInPods" $root }}
      initContainers:
        - {{- include "troika.migrate" . | nindent 10 }}
      {{- end }}
      containers:
        - name: {{ .service }}
          image: {{ include "troika.image" . }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: [python, -m, services.{{ .service }}, serve]
          securityContext: {{- include "troika.securityContext" . | nindent 12 }}
          envFrom:
            - configMapRef: {name: {{ $name }}}
          env: {{- include "troika.secrets" . | nindent 12 }}
          ports:
            - {name: grpc, containerPort: 7000}
            - {name: http, containerPort: 7100}
            {{- if and $root.Values.tls.enabled (has .service $root.Values.tls.tokenPort.services) }}
            - {name: grpc-tokens, containerPort: {{ $root.Values.tls.tokenPort.port }}}
            {{- end }}
          # A first boot reads whole tables; it gets ten minutes.
          startupProbe:
            httpGet: {path: /livez, port: http}
            periodSeconds: 2
            failureThreshold: 300
          readinessProbe:
            httpGet: {path: /readyz, port: http}
            periodSeconds: 5
            timeoutSeconds: 3
          livenessProbe:
            httpGet: {path: /livez, port: http}
            periodSeconds: 10
            timeoutSeconds: 3
            failureThreshold: 6
          lifecycle:
            # Until endpoints have forgotten the pod it still takes calls.
            preStop:
              sleep: {seconds: 5}
          resources: {{- toYaml $own.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- if $own.scratch }}
            - {name: scratch, mountPath: /var/lib/troika}
            {{- end }}
            {{- if $root.Values.tls.enabled }}
            - {name: tls, mountPath: /etc/troika/tls, readOnly: true}
            {{- end }}
            {{- include "troika.authorityMounts" . | nindent 12 }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 2Gi}
        {{- with $own.scratch }}
        - name: scratch
          emptyDir: {sizeLimit: {{ . }}}
        {{- end }}
        {{- if $root.Values.tls.enabled }}
        - name: tls
          secret: {secretName: {{ $name }}-tls, defaultMode: 0440}
        {{- end }}
        {{- include "troika.authorities" . | nindent 8 }}
{{- end }}

{{- define "troika.networkPolicy" -}}
{{- $root := .root -}}
{{- $service := .service -}}
{{- $callers := include "troika.callers" . | fromYaml -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "troika.name" . }}
  labels: {{- include "troika.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{- include "troika.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- with index $callers $service }}
    - ports: [{protocol: TCP, port: 7000}]
      from:
        {{- range . }}
        - podSelector:
            matchLabels: {{- include "troika.selector" (dict "root" $root "service" .) | nindent 14 }}
        {{- end }}
    {{- end }}
    {{- with $root.Values.networkPolicy.monitoringNamespaces }}
    - ports: [{protocol: TCP, port: 7100}]
      from:
        {{- range . }}
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ . }}}}
        {{- end }}
    {{- end }}
    {{- if .public }}
    {{- with $root.Values.networkPolicy.ingressNamespaces }}
    - ports: [{protocol: TCP, port: 7100}]
      from:
        {{- range . }}
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ . }}}}
        {{- end }}
    {{- end }}
    {{- end }}
    {{- if and $root.Values.tls.enabled (has $service $root.Values.tls.tokenPort.services) }}
    # Tokens say who comes in.
    - ports: [{protocol: TCP, port: {{ $root.Values.tls.tokenPort.port }}}]
    {{- end }}
  egress:
    - ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
    {{- include "troika.egress" (include "troika.postgres" $root | fromYaml) | nindent 4 }}
    {{- include "troika.egress" (include "troika.nats" $root | fromYaml) | nindent 4 }}
    {{- range $peer, $allowed := $callers }}
    {{- if has $service $allowed }}
    - ports: [{protocol: TCP, port: 7000}]
      to:
        - podSelector:
            matchLabels: {{- include "troika.selector" (dict "root" $root "service" $peer) | nindent 14 }}
    {{- end }}
    {{- end }}
    {{- if $root.Values.otlpEndpoint }}
    - ports: [{protocol: TCP, port: {{ regexFind "[0-9]+$" $root.Values.otlpEndpoint | default "4317" }}}]
    {{- end }}
    {{- with .egress }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with (index $root.Values $service).egressRules }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/*
Before the pods of a release: schemas that the old code still understands; with "post" after them, what it would not have.
Replicas and retries wait for one lock.
*/}}
{{- define "troika.migration" -}}
{{- $root := .root -}}
{{- $name := include "troika.name" . -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}-{{ if .post }}post-{{ end }}migrate
  labels: {{- include "troika.labels" . | nindent 4 }}
  annotations:
    helm.sh/hook: {{ if .post }}post-upgrade{{ else }}pre-install,pre-upgrade{{ end }}
    helm.sh/hook-weight: "0"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: {{ $root.Values.migrations.backoffLimit }}
  template:
    metadata:
      labels: {{- include "troika.batchLabels" (dict "root" $root "component" (printf "%s-migrate" .service)) | nindent 8 }}
    spec:
      restartPolicy: OnFailure
      automountServiceAccountToken: false
      {{- include "troika.podBasics" . | nindent 6 }}
      containers:
        - {{- include "troika.migrate" . | nindent 10 }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 256Mi}
        {{- include "troika.authorities" . | nindent 8 }}
{{- end }}
