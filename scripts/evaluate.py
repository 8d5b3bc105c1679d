"""Everything that is measured of synthetic sets, in one report: utility, fidelity, privacy, influence and pictures.

    python scripts/evaluate.py --real data/X --synthetic runs/A runs/B --output report
"""

from tardiff.cli import repository_path, run_stage
from tardiff.config import ReportConfig
from tardiff.stages.flags import EVALUATION_FLAGS
from tardiff.stages.report import run

if __name__ == "__main__":
    run_stage(ReportConfig, run, "Evaluate synthetic sets and write one report.",
              repository_path("configs/evaluation/report.yaml"), EVALUATION_FLAGS)
