#!/bin/sh
# Builds the five images with whatever engine is here, and prints their sizes. ENGINE, PYTHON, RUNTIME, TAG, REPOSITORY may say otherwise.
set -eu
cd "$(dirname "$0")/.."
TAG=${TAG:-$(sed -n 's/^appVersion: "\(.*\)"/\1/p' helm/troika/Chart.yaml)}
REPOSITORY=${REPOSITORY:-troika}
PYTHON=${PYTHON:-python:3.11-slim}
RUNTIME=${RUNTIME:-$PYTHON}
REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [ -z "${ENGINE:-}" ]; then
    for name in docker podman buildah; do
        if "$name" info >/dev/null 2>&1; then ENGINE=$name; break; fi
    done
fi
if [ -z "${ENGINE:-}" ]; then
    echo "No container engine answers: start docker, or install podman or buildah (ENGINE=podman make images)." >&2
    exit 1
fi
# OCI's own format has no health check; docker's has.
case $ENGINE in
    docker) set -- build ;;
    buildah) set -- bud --format docker ;;
    *) set -- build --format docker ;;
esac
for service in identity tags scoring orchestrator touchpoints; do
    echo "building $REPOSITORY-$service:$TAG with $ENGINE"
    "$ENGINE" "$@" --build-arg "SERVICE=$service" --build-arg "VERSION=$TAG" --build-arg "REVISION=$REVISION" \
        --build-arg "PYTHON=$PYTHON" --build-arg "RUNTIME=$RUNTIME" --tag "$REPOSITORY-$service:$TAG" .
done
echo
for service in identity tags scoring orchestrator touchpoints; do
    image=$REPOSITORY-$service:$TAG
    case $ENGINE in
        buildah) size=$(buildah images --format '{{.Size}}' "$image" | head -n 1) ;;
        *) size="$(($("$ENGINE" image inspect --format '{{.Size}}' "$image") / 1000000)) MB" ;;
    esac
    echo "$image $size"
done
