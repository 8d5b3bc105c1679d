"""Stage 4: train on real and synthetic, test on real, over ratios of synthetic to real rows."""

from utility_table import evaluate

from tardiff.cli import repository_path, run_stage
from tardiff.config import EvaluationConfig
from tardiff.evaluation.utility import Arm


def main(config: EvaluationConfig, dry_run: bool) -> None:
    evaluate(config, dry_run, "tsrtr", [Arm("TRTR"), *(Arm("TSRTR", str(name), ratio) for name in config.synthetic
                                                       for ratio in config.ratios)])


if __name__ == "__main__":
    run_stage(EvaluationConfig, main, "TSRTR: train on synthetic and real, test on real (stage 4).",
              repository_path("configs/evaluation/default.yaml"))
