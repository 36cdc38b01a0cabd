#!/bin/sh
# Makes the virtual environment $1 from dev.lock, every file checked against its hash. Needs only Python 3.11+.
set -eu
venv=$1
# Run, not only found: version managers put commands on the path that do not work.
fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
if [ -z "${PYTHON:-}" ]; then
    for name in python3.11 python3.12 python3.13 python3 python; do
        if fits "$name"; then PYTHON=$name; break; fi
    done
fi
if [ -z "${PYTHON:-}" ] || ! fits "$PYTHON"; then
    echo "Troika needs Python 3.11 or newer${PYTHON:+, and $PYTHON is not}. Point to one: make PYTHON=/path/to/python3 install" >&2
    exit 1
fi
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    echo "making $venv with $PYTHON"
    rm -rf "$venv"
    # Debian ships Python without ensurepip; a pip on the host can fill an environment that has none.
    if "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
        "$PYTHON" -m venv "$venv"
    elif "$PYTHON" -m pip --version >/dev/null 2>&1; then
        "$PYTHON" -m venv --without-pip "$venv"
    else
        echo "This Python has neither ensurepip nor pip. On Debian and Ubuntu: sudo apt install python3-venv" >&2
        exit 1
    fi
fi
if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    pip() { "$venv/bin/python" -m pip "$@"; }
else
    pip() { "$PYTHON" -m pip --python "$venv/bin/python" "$@"; }
fi
echo "installing what requirements/dev.lock names (a minute or two, once)"
# The lock is whole, so nothing is looked up: what a package asks for beyond it is not wanted.
pip install --quiet --disable-pip-version-check --no-input --require-hashes --no-deps -r requirements/dev.lock
# setuptools is in the lock: nothing more is fetched.
pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
