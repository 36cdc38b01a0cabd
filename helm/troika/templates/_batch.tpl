{{/* A CronJob in the image of a service, with its settings. Called with (dict "root" $ "service" … "job" (its values) "name" …). */}}
{{- define "troika.cronjob" -}}
{{- $root := .root -}}
{{- $job := .job -}}
{{- $env := dict -}}
{{- if $job.spark }}
{{- $env = dict "TROIKA_LINKAGE_SPARK_MASTER" "k8s://https://kubernetes.default.svc" "TROIKA_LINKAGE_FOLDER" "/spark" "SPARK_CONF_DIR" "/etc/spark"
  "SPARK_LOCAL_DIRS" "/tmp/local" }}
{{- end }}
{{- $env = merge (dict) ($job.env | default dict) $env -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ $root.Release.Name }}-{{ .name }}
  labels: {{- include "troika.labels" (dict "root" $root "service" .name) | nindent 4 }}
spec:
  schedule: {{ $job.schedule | quote }}
  # A run that takes longer than a day is not joined by the next one.
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 1
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: 1
      activeDeadlineSeconds: {{ $job.deadlineSeconds }}
      template:
        metadata:
          labels: {{- include "troika.batchLabels" (dict "root" $root "component" .name) | nindent 12 }}
        spec:
          restartPolicy: Never
          serviceAccountName: {{ if $job.spark }}{{ $root.Release.Name }}-spark{{ else }}{{ include "troika.name" . }}{{ end }}
          automountServiceAccountToken: {{ $job.spark | default false }}
          {{- include "troika.podBasics" . | nindent 10 }}
          containers:
            - name: {{ .name }}
              image: {{ if $job.spark }}{{ $root.Values.spark.image }}{{ else }}{{ include "troika.image" . }}{{ end }}
              imagePullPolicy: {{ $root.Values.image.pullPolicy }}
              command: {{ concat (list "python" "-m" (printf "services.%s" .service)) $job.args | toJson }}
              securityContext: {{- include "troika.securityContext" . | nindent 16 }}
              envFrom:
                - configMapRef: {name: {{ include "troika.name" . }}}
              env:
                {{- include "troika.secrets" . | nindent 16 }}
                {{- range $variable, $value := $env }}
                - {name: {{ $variable }}, value: {{ $value | quote }}}
                {{- end }}
                {{- if $job.spark }}
                # Executors call back by address: a Job has no name of its own.
                {{- range list "SPARK_LOCAL_IP" "SPARK_LOCAL_HOSTNAME" }}
                - name: {{ . }}
                  valueFrom: {fieldRef: {fieldPath: status.podIP}}
                {{- end }}
                {{- end }}
              resources: {{- toYaml $job.resources | nindent 16 }}
              volumeMounts:
                - {name: tmp, mountPath: /tmp}
                {{- include "troika.authorityMounts" . | nindent 16 }}
                {{- if $job.spark }}
                - {name: spark, mountPath: /etc/spark, readOnly: true}
                - {name: work, mountPath: /spark}
                {{- end }}
          volumes:
            - name: tmp
              emptyDir: {sizeLimit: {{ $job.scratch }}}
            {{- include "troika.authorities" . | nindent 12 }}
            {{- if $job.spark }}
            - name: spark
              configMap: {name: {{ $root.Release.Name }}-spark}
            - name: work
              persistentVolumeClaim: {claimName: {{ $root.Values.spark.folderClaim }}}
            {{- end }}
{{- end }}
