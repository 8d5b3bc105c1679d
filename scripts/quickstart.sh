#!/usr/bin/env bash
# Set up .venv, simulate an ICU cohort, run all four stages on it and write the report. Run it again to resume.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
echo "All stages on 3,000 simulated stays, in 8 to 10 minutes on 2 CPU cores:"
"$PYTHON" scripts/simulate.py --output data/simulated --stays 3000 --seed 0
"$PYTHON" -m tardiff run configs/experiment/simulated.yaml
cat <<NEXT

That was the whole job on simulated patients. Open the report:
  xdg-open $PWD/runs/simulated/report/report.html      (macOS: open ...)
What next:
  source .venv/bin/activate
  bash generation.sh configs/guidance/classifier.yaml                      another objective of guidance
  bash generation.sh guidance.scale=2 output=runs/simulated/synthetic/s2   a stronger one
  tardiff report --synthetic runs/simulated/synthetic/* teacher=runs/simulated/teacher   the full report, on all of them
  tardiff run data=YOUR_DATASET                                            all stages on your own data
  tensorboard --logdir runs                                                losses and real-versus-sampled figures
README.md: your own data, CinC 2012, the library, what guidance scale means, GPUs.
NEXT
