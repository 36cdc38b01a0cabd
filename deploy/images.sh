#!/bin/sh
# Builds the five images with whatever engine is here, and prints their sizes. ENGINE, PYTHON, TAG, REPOSITORY may say otherwise.
set -eu
cd "$(dirname "$0")/.."
TAG=${TAG:-$(sed -n 's/^appVersion: "\(.*\)"/\1/p' helm/troika/Chart.yaml)}
REPOSITORY=${REPOSITORY:-troika}
PYTHON=${PYTHON:-python:3.11-slim}
if [ -z "${ENGINE:-}" ]; then
    for name in docker podman buildah; do
        if "$name" info >/dev/null 2>&1; then ENGINE=$name; break; fi
    done
fi
if [ -z "${ENGINE:-}" ]; then
    echo "No container engine answers: start docker, or install podman or buildah (ENGINE=podman make images)." >&2
    exit 1
fi
for service in identity tags scoring orchestrator touchpoints; do
    echo "building $REPOSITORY-$service:$TAG with $ENGINE"
    case $ENGINE in buildah) verb=bud ;; *) verb=build ;; esac
    "$ENGINE" "$verb" --build-arg "SERVICE=$service" --build-arg "VERSION=$TAG" --build-arg "PYTHON=$PYTHON" \
        --tag "$REPOSITORY-$service:$TAG" .
done
"$ENGINE" images | grep "$REPOSITORY-" || true
