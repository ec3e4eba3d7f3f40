"""The test suite itself: what it leaves alone, and how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CACHES

ROOT = Path(__file__).parent.parent
WAITS = {
    "for a child": "subprocess.run([sys.executable, '-c', CHILD])",
    "while pygpt handles signals": """
    with signals.stop_on_signals(print) as stop:
        print("running", os.getpid(), flush=True)
        while not stop():
            time.sleep(0.01)
    sys.exit(128 + stop.signal)""",
}
SUITE = """
import os, subprocess, sys, time
from pygpt.utils import signals
CHILD = "import os, time; print('running', os.getpid(), flush=True); time.sleep(600)"

def test_first():
    {wait}

def test_second():
    print("the second test runs", flush=True)
"""


@pytest.mark.parametrize("wait", WAITS)
def test_sigterm_ends_the_tests_and_their_children(wait: str, tmp_path: Path) -> None:
    suite = tmp_path / "test_that_waits.py"
    suite.write_text(SUITE.format(wait=WAITS[wait]), encoding="utf-8")
    command = f"-m pytest -s -p no:cacheprovider -p tests.conftest -c {ROOT / 'pyproject.toml'}"
    process = subprocess.Popen(
        [sys.executable, *command.split(), suite],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    try:
        running = next(line for line in process.stdout if "running" in line)
        process.terminate()
        output, _ = process.communicate(timeout=120)  # for a busy machine
    finally:
        process.kill()
    assert process.returncode != 0
    assert "the second test runs" not in output
    child = int(running.split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(child, signal.SIGCONT)


def test_caches_are_not_the_users() -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from triton import knobs

    from pygpt.utils.files import cache_directory

    hub = pytest.importorskip("huggingface_hub.constants", reason="waits for huggingface_hub")
    used = (cache_dir(), knobs.cache.dir, cache_directory(), hub.HF_HUB_CACHE)
    own = Path(os.environ["XDG_CACHE_HOME"]).parent
    assert own.name.startswith("pygpt-tests-")
    assert all(Path(each).is_relative_to(own) for each in used)
    assert {Path(os.environ[name]).parent for name in CACHES} == {own}
