"""The recurrent classifier: what its readout sees, batch independence, double differentiability."""

import numpy as np
import pytest
import torch
from derivatives import assert_derivatives_are_right

from classifier.rnn import RNNClassifier

CELLS = ("gru", "lstm")


def build(cell="gru", num_layers=2, bidirectional=True, hidden_size=5) -> RNNClassifier:
    torch.manual_seed(0)
    return RNNClassifier(3, 2, cell, hidden_size, num_layers, 0.2, bidirectional).double().eval()


def series(rows=4, length=7) -> torch.Tensor:
    return torch.randn(rows, length, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def time_reversed(model: RNNClassifier, hidden_size=5) -> RNNClassifier:
    """The model that reads a reversed series as `model` reads the series: every pair of directions is exchanged."""
    def exchange_halves(weight):
        return torch.cat([weight[:, hidden_size:], weight[:, :hidden_size]], dim=1)

    state = model.state_dict()
    swapped = {}
    for name, value in state.items():
        if name.startswith("rnn."):
            other = name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"
            above_first = "weight_ih" in name and "_l0" not in name
            swapped[other] = exchange_halves(value) if above_first else value
        else:
            swapped[name] = exchange_halves(value) if name == "head.weight" else value
    result = build("lstm" if isinstance(model.rnn, torch.nn.LSTM) else "gru")
    result.load_state_dict(swapped)
    return result


@pytest.mark.parametrize("cell", CELLS)
def test_reversed_time_with_exchanged_directions_gives_the_same_logits(cell):
    model, x = build(cell), series()
    torch.testing.assert_close(time_reversed(model)(x.flip(1)), model(x), rtol=0, atol=1e-12)
    assert not torch.allclose(time_reversed(model)(x), model(x))


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def loop_final_state(cell, steps, w_in, w_hidden, b_in, b_hidden):
    """The last hidden state of one direction, from the equations in the documentation of torch.nn.GRU and LSTM."""
    hidden = memory = np.zeros(w_hidden.shape[1])
    for step in steps:
        if cell == "gru":
            r_in, z_in, n_in = np.split(w_in @ step + b_in, 3)
            r_hidden, z_hidden, n_hidden = np.split(w_hidden @ hidden + b_hidden, 3)
            update = sigmoid(z_in + z_hidden)
            hidden = (1 - update) * np.tanh(n_in + sigmoid(r_in + r_hidden) * n_hidden) + update * hidden
        else:
            admit, forget, candidate, output = np.split(w_in @ step + b_in + w_hidden @ hidden + b_hidden, 4)
            memory = sigmoid(forget) * memory + sigmoid(admit) * np.tanh(candidate)
            hidden = sigmoid(output) * np.tanh(memory)
    return hidden


@pytest.mark.parametrize("cell", CELLS)
def test_logits_equal_the_cell_equations_unrolled_by_hand(cell):
    model, x = build(cell, num_layers=1), series(rows=1)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}

    def final_state(steps, suffix):
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return loop_final_state(cell, steps, *(weights[f"rnn.{name}{suffix}"] for name in names))

    steps = x[0].numpy()
    readout = np.concatenate([final_state(steps, ""), final_state(steps[::-1], "_reverse")])
    expected = weights["head.weight"] @ readout + weights["head.bias"]
    np.testing.assert_allclose(model(x)[0].detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", (True, False))
def test_logits_do_not_depend_on_the_batch(cell, bidirectional):
    model, x = build(cell, bidirectional=bidirectional), series(rows=6)
    whole = model(x)
    torch.testing.assert_close(torch.cat([model(row[None]) for row in x]), whole, rtol=0, atol=1e-12)
    among_others = model(torch.cat([1e3 * x, x]))[len(x):]
    torch.testing.assert_close(among_others, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_evaluation_is_deterministic_and_training_drops_out_between_layers_as_well_as_before_the_head(cell):
    model, x = build(cell), series()
    assert torch.equal(model(x), model(x))
    model.train()
    for before_head, between_layers in ((0.2, 0.0), (0.0, 0.2)):
        model.dropout.p, model.rnn.dropout = before_head, between_layers
        assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("cell", CELLS)
def test_first_and_second_derivatives_are_right(cell):
    assert_derivatives_are_right(build(cell, hidden_size=2, num_layers=1), series(rows=2, length=3))
