#!/usr/bin/env bash
# Stage 1: train the denoiser.  bash train.sh [CONFIG] [key=value ...]
set -euo pipefail
source "$(dirname "$0")/scripts/python.sh"
exec "$PYTHON" -m tardiff train "$@"
