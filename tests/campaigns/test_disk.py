"""The disk campaign, shortened: a disk that fails costs nothing that was said to be safe."""

import pytest

from tests.campaigns import disk
from tests.helpers.campaigns import run_campaign


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(bool(disk.why_not()), reason=str(disk.why_not()))
def test_disks_that_fail(seed: int) -> None:
    flags = ("--commands", "train", "shards", "--faults", "full", "unmounted", "fsync")
    done = run_campaign("disk", "--seed", str(seed), *flags)
    assert done.returncode == 0
    assert "6 trials, 0 lost" in done.stdout
