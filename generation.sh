#!/usr/bin/env bash
# Stage 3: generate a synthetic dataset.  bash generation.sh [CONFIG] [key=value ...]
set -euo pipefail
source "$(dirname "$0")/scripts/python.sh"
exec "$PYTHON" -m tardiff generate "$@"
