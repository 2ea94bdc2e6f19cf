import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rpanoptic.data.parallel import available_cores, map_in_processes
from rpanoptic.errors import UserError
from tests.paths import ROOT


def _square(value):
    return value * value


def _fail_at_three(value):
    if value == 3:
        raise ValueError("three")
    return value


def _die(value):
    os._exit(1)


@pytest.mark.parametrize("workers", [1, 2, 50])
def test_results_come_in_the_order_of_the_items(workers):
    items = range(40)
    result = map_in_processes(_square, items, workers=workers, progress=False)
    assert result == [value * value for value in items]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_items_give_no_results(workers):
    assert map_in_processes(_square, [], workers=workers, progress=False) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_out(workers):
    with pytest.raises(ValueError, match="three"):
        map_in_processes(_fail_at_three, range(40), workers=workers, progress=False)


def test_a_worker_that_dies_is_an_error_and_not_a_wait():
    with pytest.raises(UserError, match="one of 2 processes was killed"):
        map_in_processes(_die, range(4), workers=2, progress=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only some systems limit cores")
def test_cores_that_the_process_may_not_use_do_not_count():
    allowed = os.sched_getaffinity(0)
    assert available_cores() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_fewer_than_one_worker_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        map_in_processes(_square, [1], workers=0)


def test_the_progress_bar_counts_the_items(capsys):
    map_in_processes(_square, range(7), description="squares")
    assert "squares: 100%" in (err := capsys.readouterr().err) and "7/7" in err


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and workers are forked")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = (
        "import os, pathlib, time\n"
        "from rpanoptic.data.parallel import map_in_processes\n"
        "def work(i):\n"
        f"    pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\n"
        "    time.sleep(0.05)\n"
        "map_in_processes(work, range(10**5), workers=2, progress=False)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    workers = []
    try:
        _wait(lambda: len(list(tmp_path.iterdir())) == 2)
        workers = [int(path.name) for path in tmp_path.iterdir()]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _wait(lambda: not any(_runs(pid) for pid in workers))
    finally:
        parent.kill()
        for pid in filter(_runs, workers):
            os.kill(pid, signal.SIGKILL)


def _wait(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited for a minute"
        time.sleep(0.05)


def _runs(pid):
    """Whether a process runs; one that ended but was not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
