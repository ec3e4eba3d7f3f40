"""Two ranks on the CPU against one process: the same run, to rounding."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pygpt.config import TrainConfig
from pygpt.hub.stored import read_tensors
from pygpt.runs.run import Run
from pygpt.training.ranks import Ranks
from pygpt.utils.errors import InputError
from tests.helpers.rank_checks import STEPS, build, train

ROOT = Path(__file__).parents[2]
HOW = [(parallel, optimizer) for parallel in ("ddp", "fsdp") for optimizer in ("adamw", "muon")]
FIGURES = ("train_loss", "grad_norm", "val_loss")
EPS = torch.finfo(torch.float32).eps

Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Checks:
    """What two ranks found, and how to do the same in one process."""

    data: Path
    out: Path
    seed: int
    ranks: list[Found]

    def alone(self, name: str, **changes: Any) -> Found:
        trainer = build(self.data, self.out / name, self.seed, Ranks(), **changes)
        return train(trainer)


@pytest.fixture(scope="module")
def checks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Checks:
    out = tmp_path_factory.mktemp("ranks")
    seed = int(os.environ.get("PYGPT_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))
    found = Checks(data, out, seed, [])
    for optimizer in ("adamw", "muon"):
        found.alone(f"one-{optimizer}", optimizer=optimizer)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "tests.helpers.rank_checks", str(data), str(out), str(seed)]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, f"PYGPT_TEST_SEED={seed}\n{done.stderr}"
    found.ranks.extend(json.loads((out / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    return found


def assert_same_run(found: Found, references: list[Found]) -> None:
    """Every figure agrees with the first reference.

    Sums in another order round differently, and AdamW, which divides by small numbers, makes more
    of it from step to step. How much, the references show: runs of one process whose sums differ
    only by the micro-batch. Eight times their spread, and eight roundings.
    """
    steps = [reference["steps"] for reference in references]
    assert [line["step"] for line in found["steps"]] == [line["step"] for line in steps[0]]
    for name in FIGURES:
        if name not in steps[0][-1]:
            continue
        spread = max(
            abs(line[name] - other[name])
            for others in steps[1:]
            for line, other in zip(steps[0], others, strict=True)
            if name in line
        )
        for line, theirs in zip(steps[0], found["steps"], strict=True):
            if name in line:
                allowed = 8 * spread + 8 * EPS * abs(line[name])
                assert abs(line[name] - theirs[name]) <= allowed, (name, line["step"])


@pytest.mark.parametrize(("parallel", "optimizer"), HOW)
def test_two_ranks_train_as_one_process_does(checks: Checks, parallel: str, optimizer: str) -> None:
    references = [
        checks.alone(f"{parallel}-{optimizer}-{n}", optimizer=optimizer, micro_batch=n)
        for n in (2, 1, 4, 8)
    ]
    both = [found[f"{parallel}-{optimizer}"] for found in checks.ranks]
    assert both[0]["steps"] == both[1]["steps"]
    assert_same_run(both[0], references)
    assert both[0]["saved"] == [f"step-{STEPS:08d}"]


@pytest.mark.parametrize(("parallel", "optimizer"), HOW)
def test_what_one_process_saved_goes_on_with_two(
    checks: Checks, parallel: str, optimizer: str
) -> None:
    name = f"{parallel}-{optimizer}-resumed"
    references = []
    for n in (2, 1, 4, 8):
        trainer = build(
            checks.data, checks.out / f"{name}-{n}", checks.seed, Ranks(), optimizer=optimizer,
            micro_batch=n, max_steps=STEPS + 2,
        )  # fmt: skip
        newest = Run(checks.out / f"one-{optimizer}").newest_checkpoint()
        assert newest
        trainer.resume(newest)
        references.append(train(trainer))
    assert_same_run(checks.ranks[0][name], references)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_slices_of_two_ranks_go_on_in_one_process(checks: Checks, optimizer: str) -> None:
    """The state is read back as it was: from slices as from the whole files of DDP."""
    saved = {}
    for parallel in ("fsdp", "ddp"):
        newest = Run(checks.out / f"{parallel}-{optimizer}").newest_checkpoint()
        assert newest
        trainer = build(
            checks.data, checks.out / f"{parallel}-{optimizer}-one", checks.seed, Ranks(),
            optimizer=optimizer, max_steps=STEPS + 2,
        )  # fmt: skip
        trainer.resume(newest)
        saved[parallel] = train(trainer)
        assert (newest / "optimizer").is_dir() == (parallel == "fsdp")
        assert (newest / "optimizer.safetensors").exists() == (parallel == "ddp")
        assert not (newest / "weights").exists()
    other = checks.ranks[0][f"ddp-{optimizer}-resumed"]
    assert_same_run(saved["fsdp"], [saved["ddp"], other])


def test_the_weights_that_rank_0_gathers_are_whole(checks: Checks) -> None:
    whole, sliced = (
        read_tensors(checks.out / name / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors")
        for name in ("one-adamw", "fsdp-adamw")
    )
    assert whole.keys() == sliced.keys()
    for name, tensor in whole.items():
        assert tensor.shape == sliced[name].shape
        assert (tensor - sliced[name]).norm() <= 1e-3 * tensor.norm(), name


def test_the_average_of_slices_is_that_of_the_weights(checks: Checks) -> None:
    checks.alone("averaged-one", ema_decay=0.9)
    one, two = (
        read_tensors(
            checks.out
            / name
            / "checkpoints"
            / f"step-{STEPS:08d}"
            / "average"
            / "model.safetensors"
        )
        for name in ("averaged-one", "averaged")
    )
    for name, tensor in one.items():
        assert (tensor - two[name]).norm() <= 1e-3 * tensor.norm(), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_rank_out_of_memory_halves_the_micro_batch_of_all(
    checks: Checks, accumulation: int
) -> None:
    name = f"memory-{accumulation}"
    first, second = (found[name] for found in checks.ranks)
    assert first["micro_batch"] == second["micro_batch"] == (1 if accumulation == 2 else 2)
    assert Run(checks.out / name).config().micro_batch == first["micro_batch"]
    assert_same_run(first, [checks.alone(f"{name}-{n}", micro_batch=n) for n in (2, 1, 4, 8)])


def test_out_of_memory_under_fsdp_ends_the_run_with_what_a_restart_needs(checks: Checks) -> None:
    """No rank can wait for the others there: they wait for its slices."""
    for found in checks.ranks:
        assert "torchrun --max-restarts, goes on" in found["memory-fsdp"]
    assert Run(checks.out / "memory-fsdp").config().micro_batch == 1


def test_a_compiler_that_fails_on_a_rank_is_left_out_by_all(checks: Checks) -> None:
    for found in checks.ranks:
        assert found["compiler"]["compile"] is False
        assert found["compiler"]["steps"] == checks.ranks[0]["ddp-adamw"]["steps"]


def test_a_stop_of_one_rank_stops_all_after_the_same_step(checks: Checks) -> None:
    for found in checks.ranks:
        assert [line["step"] for line in found["stopped"]["steps"]] == [1, 2]
    assert checks.ranks[0]["stopped"]["saved"] == ["step-00000002"]


def test_ranks_that_differ_are_named(checks: Checks) -> None:
    for found in checks.ranks:
        assert found["other seed"].startswith("rank 1 has seed = 2, and rank 0 has 1; all ranks")
        assert "batch_tokens = 129" in found["other batch_tokens"]


def test_a_rank_count_that_does_not_divide_the_batch_offers_the_nearest() -> None:
    config = TrainConfig(batch_tokens=12 * 1024)
    with pytest.raises(InputError, match="5 processes .* 12 sequences .* that can: 4 or 6"):
        config.check_shapes(5)
    with pytest.raises(InputError, match="micro_batch=4 .* 6 sequences .*each of 2.*: 3 or 6"):
        dataclasses.replace(config, micro_batch=4).check_shapes(2)
