#!/usr/bin/env bash
# Stage 3: generate a synthetic dataset.  bash generation.sh [CONFIG] [key=value ...]
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/scripts/generate.py" "$@"
