"""The disk campaign, shortened: a disk that fails costs nothing that was said to be safe."""

import os
import subprocess
import sys

import pytest

from tests.campaigns import disk


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(bool(disk.why_not()), reason=str(disk.why_not()))
def test_disks_that_fail(seed: int) -> None:
    command = [sys.executable, "-m", "tests.campaigns.disk", "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--commands", "train", "shards", "--faults", "full", "unmounted", "fsync"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "6 trials, 0 lost" in done.stdout
