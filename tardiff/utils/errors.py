"""The one exception that speaks to the user, and how a command ends with it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator

WANT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED|"
                            "Storage size calculation overflowed", flags=re.IGNORECASE)
"""What torch says of it, on the CPU and on a GPU."""


class UserError(Exception):
    """A fault in what the user supplied: the message names the file, key or row, what was expected and what to do.

    Entry points print the message without a traceback and exit with code 2.
    """


@contextlib.contextmanager
def naming_memory(setting: str) -> Iterator[None]:
    """Turn a want of memory inside the block, of the CPU or the GPU, into a UserError that names the setting to
    lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_want_of_memory(error):
            raise
        raise UserError(f"memory ran out ({first_line(error)}). Lower {setting}, and the same command goes on with "
                        "what is finished.") from None


def is_want_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, in numpy, in torch or on a GPU."""
    return isinstance(error, MemoryError) or bool(WANT_OF_MEMORY.search(str(error)))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, at most 200 characters of it; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


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
    except (MemoryError, RuntimeError) as error:
        if not is_want_of_memory(error):
            raise
        print(f"error: memory ran out ({first_line(error)}). Lower the batch size or the number of workers, or use a "
              "machine with more memory.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; give the same command again to go on.", file=sys.stderr)
        sys.exit(130)
