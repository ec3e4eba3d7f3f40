"""The kill campaign, shortened: a killed command goes on, and ends as if it never had been."""

import os
import subprocess
import sys

import pytest

KINDS = ("train", "ranks", "shards", "text", "export", "report")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # of processes one after another: half a minute on a quiet core
def test_killed_at_random_moments(seed: int) -> None:
    command = [sys.executable, "-m", "tests.campaigns.kill", "--kills", "20", "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--kinds", *KINDS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "20 kills: 20 survived, 0 lost" in done.stdout
