"""What influence promises: training on a sample lowers the guidance loss by as much as its influence says."""

import pytest
import torch
from fitted_tasks import NAMES, fitted_task, series

from tardiff.config import GuidanceConfig
from tardiff.influence.analysis import agreement, in_float64, loss_falls
from tardiff.influence.gradient import compute_guidance_gradient
from tardiff.influence.guidance import guidance_function
from tardiff.influence.scores import influence_scores
from tardiff.utils.distributed import ProcessGroup

GUIDANCE = series(120, seed=21)
ALONE = ProcessGroup(0, 1, torch.device("cpu"))


def measured_falls(task, x, y):
    """The fall of the mean guidance loss after one step on each sample, per unit of learning rate (N,) float64."""
    guidance = GUIDANCE[0].double(), GUIDANCE[1]
    return torch.from_numpy(loss_falls(in_float64(task, x), guidance, x.double(), y, [1e-3])[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_one_step_of_fine_tuning_moves_the_loss_as_influence_predicts(name):
    task = fitted_task(name, steps=40)
    candidates, labels = series(60, seed=33)
    direction = compute_guidance_gradient(task, *GUIDANCE, 2, 200, ALONE).direction("all", "guidance_size")
    predicted = influence_scores(task, direction, candidates, labels).double()
    observed = measured_falls(task, candidates, labels)
    assert agreement(predicted.numpy(), observed.numpy())["spearman"] > 0.9
    assert torch.allclose(predicted, observed, rtol=0.05, atol=0.05 * float(observed.abs().max()))
    clear = observed.abs() > 0.1 * observed.abs().max()
    assert (predicted.sign() == observed.sign())[clear].all()


def test_climbing_the_influence_gradient_makes_a_sample_more_useful():
    task = fitted_task("gru", steps=40)
    direction = compute_guidance_gradient(task, *GUIDANCE, 2, 200, ALONE).direction("all", "l2_norm")
    candidates, labels = series(20, seed=34)
    climb = guidance_function(task, direction, labels, GuidanceConfig("influence", unit_rms=True))
    usefulness = {step: measured_falls(task, candidates + step * climb(candidates, candidates, 0), labels).sum()
                  for step in (-0.1, 0.0, 0.1)}
    assert usefulness[-0.1] < usefulness[0.0] < usefulness[0.1]
