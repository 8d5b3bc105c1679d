#!/usr/bin/env bash
# Set up .venv, simulate an ICU cohort and run all four stages on it. Run it again to resume or to see the table again.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
"$PYTHON" scripts/simulate.py --output data/simulated --stays 3000 --seed 0
"$PYTHON" scripts/run_experiment.py configs/experiment/simulated.yaml
cat <<'NEXT'

That was the whole job on simulated patients: TRTR trains on real series, TSTR on synthetic ones; all are scored on the
same held-out patients. What next:
  source .venv/bin/activate
  bash generation.sh configs/guidance/anchored.yaml                      another objective of guidance
  bash generation.sh guidance.scale=2 output=runs/simulated/synthetic/s2   a stronger one
  python scripts/evaluate_tsrtr.py                                       real plus synthetic, over ratios
  tensorboard --logdir runs                                              losses and real-versus-sampled figures
README.md: CinC 2012 and your own data, what guidance scale means, GPUs.
NEXT
