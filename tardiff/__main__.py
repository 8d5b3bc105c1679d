"""`python -m tardiff` is the command `tardiff`, which Ctrl-C ends in one line from its first import on."""

from __future__ import annotations

from collections.abc import Sequence

from tardiff.utils.errors import exit_on_user_error


def main(arguments: Sequence[str] | None = None, command: str | None = None) -> None:
    """Run one command as `tardiff.cli.main` does."""
    def work() -> None:
        from tardiff import cli  # Here, so that an interrupt of this import is caught.

        cli.main(arguments, command)

    exit_on_user_error(work)


if __name__ == "__main__":
    main()
