#!/usr/bin/env bash
# Stage 1: train the denoiser.  bash train.sh [CONFIG] [key=value ...]
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/scripts/train.py" "$@"
