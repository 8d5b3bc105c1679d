# Sourced by the shell entry points: PYTHON is the active interpreter if TarDiff is installed for it, else that of .venv.
has_tardiff() {
    "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(None in map(u.find_spec, ("tardiff", "torch")))' 2>/dev/null
}
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if ! has_tardiff && [ -x "$root/.venv/bin/python" ]; then
        PYTHON="$root/.venv/bin/python"
    fi
fi
if ! has_tardiff; then
    echo "error: TarDiff is not installed for '$PYTHON'. Run 'bash scripts/quickstart.sh' once, or activate the" \
         "environment it is installed in." >&2
    exit 2
fi
