#!/usr/bin/env bash
# A baseline.  bash scripts/baseline.sh NAME [CONFIG] [key=value ...]
set -euo pipefail
source "$(dirname "$0")/python.sh"
exec "$PYTHON" -m tardiff baseline "$@"
