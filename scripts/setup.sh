#!/bin/sh
# Makes .venv with everything that Microtome, its tests and its checks need, at pinned versions.
set -eu
cd "$(dirname "$0")/.."

die() { echo "setup: $*" >&2; exit 1; }

find_python() {
    for name in python3.11 python3.12 python3.13 python3; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    die "no Python 3.11 or newer found. On Debian or Ubuntu: apt install python3 python3-venv"
}

has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

python=$(find_python)
if ! has_venv "$python"; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    package="python$version-venv"
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 ||
        die "$python has no venv module. On Debian or Ubuntu: sudo apt install $package"
    echo "setup: installing $package"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package"
    has_venv "$python" || die "$python still has no venv module after installing $package"
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "setup: installing pinned packages into .venv (a minute or two the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
# Compiled once, here: where Python may not write, or is told not to, every start would compile torch.
.venv/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python \
    --require-hashes requirements/lock.txt
# Left behind by a build, it would hide the installed entry points from whoever works in this folder.
rm -rf microtome.egg-info
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
echo "setup: ready"
