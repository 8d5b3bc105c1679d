#!/usr/bin/env bash
# Set up .venv and run the tests, file by file on up to four CPU cores.
# Extra arguments go to pytest, such as: bash scripts/test.sh -m slow
set -euo pipefail
source "$(dirname "$0")/setup.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
