# Identity's image with Java and pyspark: sh deploy/spark.sh
ARG PYTHON=python:3.11-slim
ARG IDENTITY

FROM ${PYTHON} AS build
COPY spark.lock /tmp/spark.lock
# pyspark comes as source; nothing in it is compiled.
RUN python -m pip install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes --no-deps \
      --target /opt/spark-packages -r /tmp/spark.lock

FROM ${IDENTITY}
USER 0:0
RUN apt-get update && apt-get install -y --no-install-recommends openjdk-17-jre-headless && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /opt/spark/work-dir && chown 10001:10001 /opt/spark/work-dir
COPY --from=build /opt/spark-packages /opt/spark-packages
COPY spark-entrypoint.sh /opt/entrypoint.sh
ENV PYTHONPATH=/srv:/srv/gen:/opt/spark-packages SPARK_PACKAGES=/opt/spark-packages/pyspark PYSPARK_PYTHON=/opt/venv/bin/python
USER 10001:10001
WORKDIR /srv
ENTRYPOINT ["sh", "/opt/entrypoint.sh"]
