"""What holds of every refusal of a source."""

from pathlib import Path

import pytest


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
