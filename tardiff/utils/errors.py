"""The one exception that speaks to the user, and how a command ends with it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable


class UserError(Exception):
    """A fault in what the user supplied: the message names the file, key or row, what was expected and what to do.

    Entry points print the message without a traceback and exit with code 2.
    """


def exit_on_user_error(work: Callable[[], None]) -> None:
    """Run `work`; print a UserError, or what the system says of a file, without a traceback and exit 2, or 130 after
    Ctrl-C."""
    # TensorBoard writes in a thread; what fails there comes up here as well, with the next row or at the end.
    threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else threading.__excepthook__(args)
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; give the same command again to go on.", file=sys.stderr)
        sys.exit(130)
