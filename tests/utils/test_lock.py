"""One command writes a folder at a time: who comes second is told, and nothing of a killed one stands in the way."""

import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
import time

import pytest

from tardiff.utils import lock
from tardiff.utils.checkpoint import atomic_path
from tardiff.utils.errors import UserError
from tardiff.utils.lock import LOCK, sole_writer

FORK = multiprocessing.get_context("fork")  # A process at once, without the imports of a new one.


def test_the_second_is_told_who_writes_and_changes_nothing(tmp_path, holder):
    with pytest.raises(UserError) as error, sole_writer(tmp_path / "run"):
        raise AssertionError("two writers")
    told = f"{tmp_path / 'run'}: is being written by process {holder[0].pid} on {os.uname().nodename} since"
    assert told in str(error.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_the_lock_ends_with_its_holder(tmp_path, holder, end):
    process, release = holder
    if end is None:
        release.send("end")
    else:
        os.kill(process.pid, end)
    process.join()
    with sole_writer(tmp_path / "run"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / LOCK).read_text()
    assert end is None or not list((tmp_path / "run").iterdir())


def test_a_folder_that_was_made_for_nothing_is_removed_and_one_that_was_there_stays(tmp_path):
    with sole_writer(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run" / LOCK).exists()
    assert not (tmp_path / "new").exists() and tmp_path.exists()
    with sole_writer(tmp_path / "new" / "run"):
        (tmp_path / "new" / "run" / "file").touch()
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["file"]


def test_a_stage_takes_what_its_command_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with sole_writer(tmp_path / "run"):
        with sole_writer("run"), sole_writer("run/part"):
            (tmp_path / "run" / "part" / "file").touch()
        assert (tmp_path / "run" / LOCK).exists()


def test_processes_other_than_the_first_leave_the_lock_to_it(tmp_path, holder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with sole_writer(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / LOCK).exists()


def test_what_a_kill_left_is_removed_and_what_is_being_written_or_of_the_user_stays(tmp_path):
    (tmp_path / "chunks").mkdir()
    for name in (".model.safetensors.abcd1234.tmp", "chunks/.0-7.npz.a_cd1234.tmp", ".notes.tmp", "mine.abcd1234.tmp"):
        (tmp_path / name).touch()
    with atomic_path(tmp_path / "chunks" / "file") as temporary, sole_writer(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        temporary.touch()
    assert left == {".notes.tmp", "mine.abcd1234.tmp", str(temporary.relative_to(tmp_path)), LOCK}


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def flock(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with sole_writer(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert "cannot be locked (No locks available)" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_not_locked(tmp_path):
    tmp_path.chmod(0o500)
    with sole_writer(tmp_path):
        pass
    tmp_path.chmod(0o700)


@pytest.fixture
def of_another_user(monkeypatch):
    """Refuse to open locks in a mode, as the system does with those that another user made."""
    def refuse(*modes):
        def opened(path, flags, mode=0o777):
            if os.path.basename(path) == LOCK and flags & os.O_ACCMODE in modes:
                raise PermissionError(errno.EACCES, "Permission denied")
            return system_open(path, flags, mode)

        system_open = os.open
        monkeypatch.setattr(os, "open", opened)

    return refuse


def test_the_lock_of_another_user_holds(tmp_path, holder, of_another_user):
    of_another_user(os.O_RDWR)
    with pytest.raises(UserError, match="is being written by process"), sole_writer(tmp_path / "run"):
        raise AssertionError("two writers")
    holder[0].kill()
    holder[0].join()
    with sole_writer(tmp_path / "run"), pytest.raises(UserError):
        hold_elsewhere(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def hold_elsewhere(folder):
    """Hold a folder as another process would, which knows nothing of what this one holds."""
    held = set(lock._held)
    lock._held.clear()
    try:
        with sole_writer(folder):
            pass
    finally:
        lock._held.update(held)


def test_a_lock_that_cannot_be_read_is_told_of(tmp_path, holder, of_another_user):
    of_another_user(os.O_RDWR, os.O_RDONLY)
    with pytest.raises(UserError, match="lock: is of another user and cannot be read"), sole_writer(tmp_path / "run"):
        raise AssertionError("two writers")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


def test_the_lock_of_a_folder_that_took_the_place_of_this_one_stays(tmp_path):
    with sole_writer(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / LOCK).write_text("another command")
    assert (tmp_path / "run" / LOCK).read_text() == "another command"


def write_often(folder, name, refused):
    for _ in range(100):
        try:
            with sole_writer(folder):
                (folder / "text").write_text(name)
                time.sleep(0.0005)
                assert (folder / "text").read_text() == name
                (folder / "text").unlink()
        except UserError:
            refused.value += 1


def test_writers_that_come_and_go_never_meet(tmp_path):
    refused = FORK.Value("i", 0)
    writers = [FORK.Process(target=write_often, args=(tmp_path / "run", name, refused)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert refused.value < 300
