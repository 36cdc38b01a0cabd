#!/bin/sh
# Makes the image for linkage and rebuild on Spark: identity's, with Java and pyspark; jobs and their executors run in it.
# After `make images`; ENGINE, TAG, REPOSITORY as there.
set -eu
cd "$(dirname "$0")/.."
TAG=${TAG:-$(sed -n 's/^appVersion: "\(.*\)"/\1/p' helm/troika/Chart.yaml)}
REPOSITORY=${REPOSITORY:-troika}
if [ -z "${ENGINE:-}" ]; then
    for name in docker podman buildah; do
        if "$name" info >/dev/null 2>&1; then ENGINE=$name; break; fi
    done
fi
if [ -z "${ENGINE:-}" ]; then
    echo "No container engine answers: start docker, or install podman or buildah." >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
cp deploy/spark.Dockerfile "$work/Dockerfile"
cp deploy/spark-entrypoint.sh "$work/"
# What the tests ran with, by hash.
awk '/^(pyspark|py4j)==/ { on = 1 } on { print } on && !/\\$/ { on = 0 }' requirements/dev.lock >"$work/spark.lock"
case $ENGINE in buildah) verb=bud ;; *) verb=build ;; esac
"$ENGINE" "$verb" --build-arg "IDENTITY=$REPOSITORY-identity:$TAG" --build-arg "PYTHON=${PYTHON:-python:3.11-slim}" \
    --tag "$REPOSITORY-identity-spark:$TAG" "$work"
