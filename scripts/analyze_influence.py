"""What the guide makes of real and synthetic series: gradient norms, influence, and a check by fine-tuning."""

from tardiff.cli import repository_path, run_stage
from tardiff.config import InfluenceAnalysisConfig
from tardiff.stages.flags import EVALUATION_FLAGS
from tardiff.stages.influence import run

if __name__ == "__main__":
    run_stage(InfluenceAnalysisConfig, run, "Analyse the influence of real and synthetic series on the classifier.",
              repository_path("configs/evaluation/influence.yaml"), EVALUATION_FLAGS)
