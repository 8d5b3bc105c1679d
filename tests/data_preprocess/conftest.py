"""What holds of every refusal of a source, and of every dataset with a target of its own."""

from pathlib import Path

import pytest

from tardiff.data.splits import halve_validation, rotated
from tardiff.utils.errors import UserError


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
        with pytest.raises(UserError, match="target of its own"):
            rotated(dataset, 0, 3)
        return len(guidance), len(selection), len(dataset.test)
    return check
