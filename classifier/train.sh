#!/usr/bin/env bash
# Stage 2: train the classifier that guides.  bash classifier/train.sh [CONFIG] [key=value ...]
set -euo pipefail
exec "${PYTHON:-python}" -m classifier.train "$@"
