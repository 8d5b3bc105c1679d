"""A folder that one command writes at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from tardiff.utils.checkpoint import remove_leftovers, require_folder, writing
from tardiff.utils.errors import UserError

LOCK = ".lock"
_held: set[Path] = set()


@contextlib.contextmanager
def sole_writer(folder: str | Path) -> Iterator[None]:
    """Let no other command write `folder` inside the block; make it where it is not there, and clear it of what a kill
    left half-written.

    The system's lock on the file `.lock` ends with this process, however that ends; over NFS the server holds it. Of
    several processes under torchrun the first takes it. A stage may take what its own command holds already. A folder
    that this user may not write is not locked; nor is one on a file system without locks, which is told.
    Raises UserError that says who writes the folder, or if it cannot be made.
    """
    folder = Path(folder)
    require_folder(folder)
    place = folder.resolve()
    if place in _held or os.environ.get("RANK", "0") != "0":
        yield
        return
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = _acquire(folder)
    _held.add(place)
    try:
        if lock is not None:
            remove_leftovers(folder)
        yield
    finally:
        _held.discard(place)
        if lock is not None:
            # The folder may have been replaced meanwhile, and the new one be held by another command.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(lock), (folder / LOCK).stat()):
                    (folder / LOCK).unlink()
            os.close(lock)
        with contextlib.suppress(OSError):  # Where it holds anything, it stays.
            for path in absent:
                path.rmdir()


def _acquire(folder: Path) -> int | None:
    """Return the open lock file, with who holds it written to it; None where the folder cannot be locked."""
    path = folder / LOCK
    while True:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = _open(path)
            except FileNotFoundError:  # The folder was removed as empty by a command that was refused.
                continue
        if lock is None:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(lock) if error.errno in (errno.EAGAIN, errno.EACCES) else None
            os.close(lock)
            if holder is not None:
                raise UserError(f"{folder}: is being written by {holder}. Wait for its end, or give another output "
                                "folder.") from None
            path.unlink(missing_ok=True)
            print(f"note: {folder} cannot be locked ({error.strerror}): let no other command write it meanwhile.")
            return None
        # Whoever held it may have removed the file since it was opened.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                break
        os.close(lock)
    now = datetime.now(timezone.utc)
    holder = f"process {os.getpid()} on {platform.node()} since {now:%Y-%m-%d %H:%M:%S} UTC: {shlex.join(sys.argv)}"
    with contextlib.suppress(OSError):  # On a full disk the lock holds all the same.
        os.ftruncate(lock, 0)
        os.write(lock, holder.encode(errors="replace"))
    return lock


def _open(path: Path) -> int | None:
    """Return the opened lock file, for reading alone where another user made it; None if the folder is not writable."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
    if not os.access(path.parent, os.W_OK):
        return None
    try:
        return os.open(path, os.O_RDONLY)
    except PermissionError:
        raise UserError(f"{path}: is of another user and cannot be read, so it cannot be told whether that user writes "
                        "the folder. Remove it if nobody does, or give another output folder.") from None


def _holder(lock: int) -> str:
    """Return who holds the open lock file, who may be just about to write it there."""
    for _ in range(20):
        if found := os.pread(lock, 1000, 0):
            return found.decode(errors="replace")
        time.sleep(0.02)
    return "another command"
