"""A campaign of tests/campaigns in its short form, as its test in CI runs it."""

from __future__ import annotations

import os
import subprocess
import sys


def run_campaign(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run tests/campaigns/NAME.py in a process with one thread, and print its output."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    print(done.stdout, done.stderr)
    return done
