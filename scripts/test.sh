#!/usr/bin/env bash
# Set up .venv and run the tests. Extra arguments go to pytest, such as: bash scripts/test.sh -m slow
set -euo pipefail
source "$(dirname "$0")/setup.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest "$@"
