"""--profile and --memory-snapshot."""

import json
from collections.abc import Callable

import pytest

from pygpt.runs.run import Run
from pygpt.training.profiling import OTHER, part_of
from pygpt.utils.errors import InputError

TINY = """
    --preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 32 --block-size 32 --dropout 0
    --batch-tokens 256 --micro-batch 4 --max-steps 6 --warmup-steps 2 --lr-decay-steps 6
    --eval-interval 6 --eval-tokens 256 --checkpoint-interval 6
    --device cpu --dtype float32 --track=
""".split()


def test_a_profile_is_a_trace_and_tables(
    run_train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run_train("plain")
    run = run_train("profiled", "--profile", "2")
    trace = json.loads((run.path / "profile" / "trace.json").read_text())
    names = [event["name"] for event in trace["traceEvents"]]
    assert {"ProfilerStep#3", "ProfilerStep#4"} <= set(names)
    assert "ProfilerStep#2" not in names
    assert "ProfilerStep#5" not in names
    text = (run.path / "profile" / "table.txt").read_text()
    printed = capsys.readouterr().out
    for word in ("GEMMs", "optimizer", "attention", "roofline", "aten::mm", "calls a step"):
        assert word in text
        assert word in printed
    losses = [[line["train_loss"] for line in each.read_metrics()] for each in (plain, run)]
    assert losses[0] == losses[1]


def test_a_run_that_ends_before_says_so(
    run_train: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    run_train("short", "--profile", "2", "--max-steps", "2")
    assert "nothing was profiled" in caplog.text


@pytest.mark.parametrize(
    ("op", "part"),
    [
        ("aten::mm", "GEMMs"),
        ("sm80_xmma_gemm_bf16bf16", "GEMMs"),
        ("pygpt::gelu_native_backward", "GELU"),
        ("pygpt::linear_cross_entropy", "loss"),
        ("_layer_norm_forward_kernel", "layer norms"),
        ("aten::_scaled_dot_product_flash_attention", "attention"),
        ("Optimizer.step#AdamW.step", "optimizer"),
        ("aten::copy_", OTHER),
    ],
)
def test_ops_belong_to_the_parts_of_the_roofline(op: str, part: str) -> None:
    assert part_of(op) == part


def test_a_memory_snapshot_is_refused_on_a_cpu(run_train: Callable[..., Run]) -> None:
    with pytest.raises(InputError, match="CUDA's allocator .* on cpu; --dry-run"):
        run_train("snapshot", "--memory-snapshot")
