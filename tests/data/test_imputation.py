"""Filling gaps, against a plain loop."""

import numpy as np

from tardiff.data.imputation import forward_fill

NAN = np.nan


def test_forward_fill_agrees_with_a_loop_and_never_crosses_stays_or_looks_ahead():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(20, 12, 3))
    x[generator.random(x.shape) < 0.7] = NAN
    expected = x.copy()
    for stay in expected:
        for step in range(1, len(stay)):
            for channel in range(stay.shape[1]):
                if np.isnan(stay[step, channel]):
                    stay[step, channel] = stay[step - 1, channel]
    np.testing.assert_array_equal(forward_fill(x), expected)
    changed = x.copy()
    changed[:, 6:] = 999
    np.testing.assert_array_equal(forward_fill(changed)[:, :6], expected[:, :6])
