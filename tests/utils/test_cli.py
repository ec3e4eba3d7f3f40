"""How every command runs."""

import os

import pytest

from pygpt.utils import cli


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, str(cli.SPINS)),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
    ids=["nothing", "spins", "policy"],
)
def test_openmp_threads_give_up_their_core_unless_the_user_decides(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # remembered, so that what `run` sets goes afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen: list[str | None] = []
    cli.run(lambda: seen.append(os.environ.get("GOMP_SPINCOUNT")))
    assert seen == [expected]
