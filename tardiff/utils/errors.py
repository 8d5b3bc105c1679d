"""The one exception that speaks to the user, and how a command ends with it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta

WANT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED|"
                            "Storage size calculation overflowed", flags=re.IGNORECASE)
"""What torch says of it, on the CPU and on a GPU."""
USER_CODE: set[str] = set()
"""The files of code of the user's own, as they are imported."""


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
    # A user error has said already what to do.
    return not isinstance(error, UserError) and (
        isinstance(error, MemoryError) or bool(WANT_OF_MEMORY.search(str(error))))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, at most 200 characters of it; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def of_user_code(error: Exception) -> UserError | None:
    """Return a UserError that tells the place of an error in code of the user's own; None of any other error."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in USER_CODE:
            return UserError(f"{frame.filename}, line {frame.lineno}, in {frame.name}: {type(error).__name__}: "
                             f"{first_line(error)}")
    return None


def _open_streams() -> None:
    """Let standard streams that are closed (`>&-`) lead nowhere, before a file takes the number of one."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    sys.stdout, sys.stderr = (stream or open(number, "w", closefd=False)  # noqa: SIM115 - it ends with the process
                              for number, stream in ((1, sys.stdout), (2, sys.stderr)))


def exit_on_user_error(work: Callable[[], None]) -> None:
    """Run `work`; print a UserError, an error in code of the user's own, or what the system says of a file, without a
    traceback and exit 2, or 130 after Ctrl-C."""
    _open_streams()
    # TensorBoard writes in a thread; what fails there comes up here as well, with the next row or at the end.
    threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else threading.__excepthook__(args)
    try:
        work()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted; give the same command again to go on.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        if not _is_told_already(message):
            print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def _message(error: Exception) -> str | None:
    """Return what a user is told of an error; None of one that is a fault of ours."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if is_want_of_memory(error):
        return (f"memory ran out ({first_line(error)}). Lower the batch size or the number of workers, or use a "
                "machine with more memory.")
    told = error if isinstance(error, UserError) else of_user_code(error)
    return None if told is None else str(told)


def _is_told_already(message: str) -> bool:
    """Tell whether another process under torchrun, whose store counts them, has said the same."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    from torch.distributed import TCPStore  # Here, so that no message waits for torch.

    try:
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
                         timeout=timedelta(seconds=10))
        return store.add(f"tardiff: {message}", 1) > 1
    except (KeyError, ValueError, RuntimeError):  # Nobody is there to count.
        return False
