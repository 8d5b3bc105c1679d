#!/usr/bin/env bash
# Stage 2: train the classifier that guides.  bash classifier/train.sh [CONFIG] [key=value ...]
set -euo pipefail
source "$(dirname "$0")/../scripts/python.sh"
exec "$PYTHON" -m tardiff guide "$@"
