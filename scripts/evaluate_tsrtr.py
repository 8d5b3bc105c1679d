"""Stage 4: train on synthetic and real, test on real, beside training on real."""

from dataclasses import replace

from tardiff.cli import repository_path, run_stage
from tardiff.config import EvaluationConfig
from tardiff.stages.flags import EVALUATION_FLAGS
from tardiff.stages.utility import run

if __name__ == "__main__":
    run_stage(EvaluationConfig, lambda config, dry_run: run(replace(config, protocols=["tsrtr"]), dry_run),
              "TSRTR: train on synthetic and real, test on real (stage 4).",
              repository_path("configs/evaluation/default.yaml"), EVALUATION_FLAGS)
