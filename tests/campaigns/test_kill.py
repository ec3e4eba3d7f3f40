"""The kill campaign, shortened: a killed command goes on, and ends as if it never had been."""

import pytest

from tests.helpers.campaigns import run_campaign

KINDS = ("train", "ranks", "shards", "text", "export", "report")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # of processes one after another: half a minute on a quiet core
def test_killed_at_random_moments(seed: int) -> None:
    done = run_campaign("kill", "--kills", "20", "--seed", str(seed), "--kinds", *KINDS)
    assert done.returncode == 0
    assert "20 kills: 20 survived, 0 lost" in done.stdout
