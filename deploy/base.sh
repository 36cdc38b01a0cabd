#!/bin/sh
# Makes the base images of the Dockerfile out of Debian's packages, for places where no base image can be pulled.
# What follows from it: PYTHON=troika-python-build RUNTIME=troika-python make images
set -eu

usage() {
    cat <<'END'
usage: sh deploy/base.sh [--name NAME] [--suite SUITE] [--mirror ADDRESS] [--tar FOLDER]

Makes two images with debootstrap (as root): NAME-build, with Python and pip, that the Dockerfile builds in, and NAME, with Python
alone, that services run in. They go into docker, podman or buildah, whichever answers (ENGINE says otherwise).

  --name NAME       default: troika-python
  --suite SUITE     release of Debian, with Python 3.11 or newer; default: bookworm
  --mirror ADDRESS  where packages come from; default: where this machine's apt has them from
  --tar FOLDER      write NAME.tar and NAME-build.tar there, and ask no engine
END
}

name=troika-python suite=bookworm mirror='' tar=''
while [ $# -gt 0 ]; do
    case $1 in
        --name | --suite | --mirror | --tar)
            [ $# -gt 1 ] || { echo "$1 needs a value" >&2; exit 2; }
            case $1 in --name) name=$2 ;; --suite) suite=$2 ;; --mirror) mirror=$2 ;; --tar) tar=$2 ;; esac
            shift 2 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

if ! command -v debootstrap >/dev/null 2>&1; then
    echo "debootstrap is not here: apt-get install debootstrap" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "debootstrap changes its root, which only root may: sudo sh deploy/base.sh" >&2
    exit 1
fi
if [ -z "$mirror" ]; then
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -v security | head -n 1 || true)
fi
if [ -z "${ENGINE:-}" ] && [ -z "$tar" ]; then
    for engine in docker podman buildah; do
        if "$engine" info >/dev/null 2>&1; then ENGINE=$engine; break; fi
    done
fi
if [ -z "${ENGINE:-}" ] && [ -z "$tar" ]; then
    echo "No container engine answers: start docker, install podman or buildah, or say --tar FOLDER." >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

# imported IMAGE ROOT: the folder as an image, or as a file.
imported() {
    # Without what nobody reads in a container.
    rm -rf "$2"/usr/share/doc/* "$2"/usr/share/man/* "$2"/usr/share/locale/* "$2"/usr/share/info/* \
        "$2"/var/cache/apt/* "$2"/var/lib/apt/lists/* "$2"/var/log/*
    if [ -n "$tar" ]; then
        mkdir -p "$tar"
        tar --numeric-owner --exclude ./dev --exclude ./proc --exclude ./sys -C "$2" -cf "$tar/$1.tar" .
        echo "$tar/$1.tar $(du -m "$tar/$1.tar" | cut -f1) MB"
    elif [ "$ENGINE" = buildah ]; then
        container=$(buildah from scratch)
        buildah copy --quiet "$container" "$2" / >/dev/null
        buildah commit --quiet --rm "$container" "$1" >/dev/null
        echo "$1 $(du -sm "$2" | cut -f1) MB"
    else
        tar --numeric-owner --exclude ./dev --exclude ./proc --exclude ./sys -C "$2" -c . | "$ENGINE" import - "$1" >/dev/null
        echo "$1 $(du -sm "$2" | cut -f1) MB"
    fi
}

# No recommended packages, hence no compiler.
for image in "$name" "$name-build"; do
    packages=python3,python-is-python3,libpython3-stdlib,ca-certificates
    case $image in *-build) packages=$packages,python3-venv,python3-pip ;; esac
    # shellcheck disable=SC2086 # an empty mirror is no argument
    debootstrap --variant=minbase --include="$packages" "$suite" "$work/$image" $mirror >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" "$work/$image/debootstrap/debootstrap.log" >&2 2>/dev/null || true
        echo "debootstrap could not make $image" >&2
        exit 1
    }
    chroot "$work/$image" python -c 'import sys, ssl, sqlite3; assert sys.version_info >= (3, 11), sys.version'
    imported "$image" "$work/$image"
    rm -rf "${work:?}/$image"
done
