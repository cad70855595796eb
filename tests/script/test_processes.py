import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from script.processes import running
from script.server import HONCHO
from tests.cluster import wait_for

ROOT = Path(__file__).resolve().parents[2]


def test_a_process_ends_with_its_context() -> None:
    with running(["sleep", "60"]) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with running([sys.executable, "-c", stubborn], patience=0.5) as process:
        wait_for("SIGTERM to be ignored", lambda: _ignores_sigterm(process.pid))
    assert process.returncode == -signal.SIGKILL


def _ignores_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored, 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children of a parent's death on Linux alone")
def test_a_process_ends_when_its_parent_is_killed() -> None:
    parent_code = (
        "import time\nfrom script.processes import running\n"
        "with running(['sleep', '60']) as child:\n    print(child.pid, flush=True)\n    time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    wait_for("the child to end", lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_what_needs_long_to_end_is_not_killed_by_script_server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As an agent that removes what it kept ready; honcho by itself waits 5 seconds."""
    (tmp_path / "Procfile").write_text(
        "slow: trap 'sleep 6; touch ended; exit' TERM; touch ready; while :; do sleep 0.1; done\nweb: exec sleep 60\n"
    )
    said = ""

    def both_started() -> bool:
        """honcho fails on a signal that comes before it knows the processes that it has started."""
        nonlocal said
        said += capfd.readouterr().out
        return said.count(" started (pid=") == 2

    with running([sys.executable, "-c", HONCHO, "start"], cwd=tmp_path, patience=20):
        wait_for("both to be known", both_started)
        wait_for("it to be ready", lambda: (tmp_path / "ready").exists())
    assert (tmp_path / "ended").exists()
