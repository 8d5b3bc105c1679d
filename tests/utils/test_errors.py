"""How a command ends: in one line, with the exit code that says why, whatever becomes of its streams."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tardiff.utils.errors import UserError, exit_on_user_error, naming_memory


def ends(error, capsys):
    """The exit code, and what is said, of work that raises an error."""
    def work():
        raise error

    with pytest.raises(SystemExit) as stop:
        exit_on_user_error(work)
    return stop.value.code, capsys.readouterr().err


def test_every_end_has_its_code_and_its_line(capsys):
    assert ends(UserError("no such file"), capsys) == (2, "error: no such file\n")
    assert ends(PermissionError(13, "Permission denied", "data/train.npz"), capsys) == (
        2, "error: data/train.npz: Permission denied.\n")
    assert ends(KeyboardInterrupt(), capsys) == (130, "\ninterrupted; give the same command again to go on.\n")
    code, said = ends(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), capsys)
    assert code == 2 and said.startswith("error: memory ran out (CUDA out of memory. Tried to allocate 2 GiB.). Lower")
    with pytest.raises(RuntimeError, match="a fault of ours"):
        exit_on_user_error(lambda: (_ for _ in ()).throw(RuntimeError("a fault of ours")))


def test_only_want_of_memory_names_the_setting():
    with pytest.raises(UserError, match=r"memory ran out \(MemoryError\). Lower steps"), naming_memory("steps"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), naming_memory("batch_size"):
        raise RuntimeError("shapes do not fit")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(closed, tmp_path):
    """What is written to them reaches no file that is opened later."""
    program = """
import os, sys
from tardiff.utils.errors import UserError, exit_on_user_error
def work():
    with open("file", "w") as file:
        print("said"); print("told", file=sys.stderr); os.write(1, b"raw"); os.write(2, b"raw")
        file.write("content")
    raise UserError("refused")
exit_on_user_error(work)
"""
    done = subprocess.run(["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, program], cwd=tmp_path, check=False,
                          capture_output=True, text=True)
    assert done.returncode == 2 and (tmp_path / "file").read_text() == "content"
    assert "error: refused" in done.stderr or "2>&-" in closed


def heed_interrupts():
    """What a background job of a shell script is told to ignore, its children would ignore, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("delay", [0.3, 1.0])
def test_an_interrupt_of_the_imports_ends_in_one_line(delay, tmp_path):
    program = "from tardiff.__main__ import main; print(flush=True); main(['report'])"
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, preexec_fn=heed_interrupts) as process:
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode in (130, 2) and "Traceback" not in said and said.count("\n") < 5


def test_an_interrupt_while_workers_start_ends_in_one_line(tmp_path):
    program = tmp_path / "command.py"
    program.write_text("""
import time
from tardiff.utils.errors import exit_on_user_error
def work():
    from tardiff.utils.parallel import run_jobs
    print(flush=True)
    run_jobs([(str(number), lambda: time.sleep(600)) for number in range(4)], 2, "jobs", "job")
exit_on_user_error(work)
""")
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True, preexec_fn=heed_interrupts) as process:
        process.stdout.readline()
        time.sleep(0.4)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "Traceback" not in said and "interrupted" in said


def test_processes_under_torchrun_tell_a_refusal_once(tmp_path):
    program = tmp_path / "command.py"
    program.write_text("""
import os
from tardiff.utils.errors import UserError, exit_on_user_error
def work():
    raise UserError("refused by all")
exit_on_user_error(work)
""")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                           program], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and done.stderr.count("error: refused by all") == 1
