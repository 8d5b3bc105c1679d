# Sourced by quickstart.sh and test.sh: makes .venv with TarDiff in it, and does nothing where that is up to date.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
wanted="$(cat pyproject.toml constraints.txt | cksum)"
if [ ! -f .venv/installed ] || [ "$(cat .venv/installed)" != "$wanted" ]; then
    echo "Setting up .venv, once: pip downloads PyTorch if it is not cached, and says nothing for some 2 to 5 minutes ..."
    base="${BASE_PYTHON:-python3}"
    if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "error: $base is older than Python 3.10. Set BASE_PYTHON to a newer interpreter." >&2
        exit 2
    fi
    "$base" -m venv .venv
    .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
    echo "$wanted" > .venv/installed
fi
PYTHON="$root/.venv/bin/python"
export PYTHON
