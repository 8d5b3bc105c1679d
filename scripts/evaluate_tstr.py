"""Stage 4: train on synthetic, test on real, beside training on real."""

from utility_table import evaluate

from tardiff.cli import repository_path, run_stage
from tardiff.config import EvaluationConfig
from tardiff.evaluation.utility import Arm


def main(config: EvaluationConfig, dry_run: bool) -> None:
    evaluate(config, dry_run, "tstr", [Arm("TRTR"), *(Arm("TSTR", str(name)) for name in config.synthetic)])


if __name__ == "__main__":
    run_stage(EvaluationConfig, main, "TSTR: train on synthetic, test on real (stage 4).",
              repository_path("configs/evaluation/default.yaml"))
