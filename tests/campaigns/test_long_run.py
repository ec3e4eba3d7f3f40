"""The long run, shortened: memory, descriptors and threads stay; a week is told right."""

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_grows_and_a_week_is_told() -> None:
    command = [sys.executable, "-m", "tests.campaigns.long_run", "--steps", "3000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
