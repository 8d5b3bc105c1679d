# Sourced by the shell entry points: PYTHON is the interpreter of the active environment, else that of .venv.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$root/.venv/bin/python" ]; then
        PYTHON="$root/.venv/bin/python"
    fi
fi
if ! "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("tardiff") is None)' 2>/dev/null; then
    echo "error: TarDiff is not installed for '$PYTHON'. Run 'bash scripts/quickstart.sh' once, or activate the" \
         "environment it is installed in." >&2
    exit 2
fi
