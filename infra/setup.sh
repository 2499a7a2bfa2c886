#!/bin/sh
# Make or update the virtual environment: infra/setup.sh VENV_FOLDER. Needs Python 3.11 or newer, and no root.
#
#   PYTHON           interpreter to build upon (default: python3)
#   PIP_FIND_LINKS   folders or pages with wheels, also for uv (UV_FIND_LINKS goes before it)
#   UV_TORCH_BACKEND which build of torch (default: auto, the one for this machine's GPU or the small one without;
#                    with find-links: what lies there)
set -eu

venv=$1
python=${PYTHON:-python3}
uv_version=0.13.9

fail() {
    echo "opsd: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "'$python' is not installed. Install Python 3.11 or newer, or set PYTHON to it."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "opsd needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1). Set PYTHON to a newer one: make venv PYTHON=python3.12"

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv "$venv" || fail "'$python -m venv' failed. On Debian and Ubuntu the package python3-venv provides it."
fi
if [ "$("$venv/bin/uv" --version 2>/dev/null | cut -d' ' -f2)" != "$uv_version" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
fi

# uv reads none of pip's settings; hand over those that say where packages come from.
setting() {
    "$venv/bin/python" -m pip config get "global.$1" 2>/dev/null | tr -s ' \n' ',,' | sed 's/,$//' || true
}
links=${UV_FIND_LINKS:-$(printf '%s' "${PIP_FIND_LINKS:-$(setting find-links)}" | tr -s ' ' ',')}
index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(setting index-url)}}
[ -z "$links" ] || export UV_FIND_LINKS="$links"
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
export VIRTUAL_ENV="$venv"

install() {
    "$venv/bin/uv" pip install --quiet -c constraints.txt -e '.[stack,dev]'
}

echo "opsd: installing packages into $venv (a few minutes the first time)"
if [ -n "$links" ] || [ -n "${UV_TORCH_BACKEND:-}" ]; then
    install
elif ! UV_TORCH_BACKEND=auto install; then
    echo "opsd: torch's own index cannot be used; trying the build of the package index" >&2
    install
fi
