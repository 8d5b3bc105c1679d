"""What holds of every refusal of a source, of every dataset with a target of its own, and of the windows of EEG."""

from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import interp1d

from tardiff.data.splits import halve_validation


@pytest.fixture
def refusal(capsys):
    """Return a function that runs the `main` of a source, checks that it refuses and writes nothing, and says why."""
    def run(main, *arguments):
        arguments = list(map(str, arguments))
        with pytest.raises(SystemExit) as end:
            main(arguments)
        message = capsys.readouterr().err
        assert end.value.code == 2 and message.count("error: ") == 1 and "Traceback" not in message
        assert not Path(arguments[arguments.index("--output") + 1]).exists()
        return message.partition("error: ")[2]
    return run


@pytest.fixture
def check_composed():
    """Return a function that checks that train rows are of the source and all others of the target, whose train share
    is the guidance half, and returns the rows of the halves and of test."""
    def check(dataset, is_target, subject_of=int):
        assert not any(is_target(subject_of(own)) for own in dataset.train.subject)
        guidance, selection = halve_validation(dataset.val)
        for part in (guidance, selection, dataset.test):
            assert len(part) and all(is_target(subject_of(own)) for own in part.subject)
        assert guidance.guidance is None and len(guidance) == dataset.val.guidance.sum()
        return len(guidance), len(selection), len(dataset.test)
    return check


@pytest.fixture
def windows_of_the_notebook():
    """Return a function that turns a recording (T, C) at 500 Hz into windows of one second as Medformer's notebooks do,
    one window and one channel at a time."""
    def windows_of(raw):
        length = len(raw)
        new = np.linspace(1, length, int(length / 500 * 256))
        resampled = [interp1d(np.linspace(1, length, length), channel)(new) for channel in raw.T]
        middle = int(len(new) / 2)
        first = middle - int(middle / 256) * 256
        last = middle + int((len(new) - middle) / 256) * 256
        windows = [[channel[start:start + 256] for channel in resampled] for start in range(first, last, 256)]
        return [np.stack([(values - values.mean()) / values.std() for values in window], axis=1) for window in windows]
    return windows_of
