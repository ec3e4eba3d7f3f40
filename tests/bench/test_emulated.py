"""What a CPU only emulates is not measured, and that is said."""

import pytest
import torch
from lib import emulated

WAYS = {"nanoGPT": "float32", "nanoGPT, bf16": "bfloat16", "pygpt": "auto"}


@pytest.mark.parametrize(
    ("device", "has", "expected"),
    [("cpu", False, ["nanoGPT, bf16"]), ("cpu", True, []), ("cuda", False, [])],
)
def test_emulated_bf16_is_left_out(
    device: str,
    has: bool,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(emulated, "cpu_has_bf16", lambda: has)
    out = emulated.left_out(WAYS, torch.device(device))
    assert [*out] == expected
    said = [f"left out: {name}: {reason}\n" for name, reason in out.items()]
    assert capsys.readouterr().err == "".join(said)
