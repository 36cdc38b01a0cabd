# One service's image: docker build --build-arg SERVICE=identity -t troika-identity .   (or: make images)
# PYTHON: any image with Python 3.11 or newer, pip and a C library; deploy/base.sh makes one where none can be pulled.
# RUNTIME: what services run in, where that may be less: it needs no pip.
ARG PYTHON=python:3.11-slim
ARG RUNTIME=${PYTHON}

FROM ${PYTHON} AS build
ARG SERVICE
COPY requirements/${SERVICE}.lock /tmp/service.lock
# Wheels that lie here are taken instead of asking an index: make wheels fills the folder for builds without a network.
COPY deploy/wheels /tmp/wheels
RUN python -m venv --without-pip /opt/venv \
 && if ls /tmp/wheels/*.whl >/dev/null 2>&1; then from="--no-index --find-links /tmp/wheels"; else from=""; fi \
 && python -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
      --only-binary :all: --require-hashes --no-deps $from -r /tmp/service.lock \
 # Packages bring their tests and headers along, a hundred megabytes of them.
 && find /opt/venv -type d \( -name tests -o -name include \) -prune -exec rm -rf {} +

FROM ${RUNTIME}
ARG SERVICE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="troika-${SERVICE}" \
      org.opencontainers.image.description="Troika, the customer-operations platform for car makers: ${SERVICE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN test -n "${SERVICE}" && groupadd --gid 10001 troika && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin troika
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv
# This service, what all stand on, and the contracts; no other service.
COPY gen gen
COPY chassis chassis
COPY services/__init__.py services/__init__.py
COPY services/${SERVICE} services/${SERVICE}
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/srv:/srv/gen PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 SERVICE=${SERVICE}
RUN python -m compileall -q /opt/venv/lib /srv
USER 10001:10001
EXPOSE 7000 7100
HEALTHCHECK --interval=10s --timeout=3s --start-period=600s \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('TROIKA_HTTP_PORT', '7100')}/readyz\", timeout=2)"]
CMD ["sh", "-c", "exec python -m services.${SERVICE} serve"]
