"""Muon: what it orthogonalises, which parameters it takes, and that a run resumes exactly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pygpt.config import GPTConfig, TrainConfig
from pygpt.hub.stored import read_tensors
from pygpt.model import GPT
from pygpt.planning.memory import Plan
from pygpt.runs.run import Run
from pygpt.training.muon import MuonWithAdamW, newton_schulz
from pygpt.training.optimizer import build_optimizer
from pygpt.utils.errors import InputError

TINY = """
    --preset shakespeare-char --n-layer 2 --n-head 2 --n-embd 16 --block-size 32 --dropout 0.1
    --batch-tokens 256 --micro-batch 4 --max-steps 8 --warmup-steps 2 --lr-decay-steps 8
    --eval-interval 4 --eval-tokens 256 --checkpoint-interval 4 --device cpu --dtype float32
    --optimizer muon --compile False
""".split()
CONFIG = TrainConfig(optimizer="muon", dtype="float32", learning_rate=1e-2, weight_decay=0.1)


def small_model(seed: int) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(block_size=16, vocab_size=64, n_layer=2, n_head=2, n_embd=32))


def test_newton_schulz_makes_singular_values_about_one(seed: int) -> None:
    torch.manual_seed(seed)
    x = newton_schulz(torch.randn(3, 16, 64))
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.6
    assert values.max() < 1.3
    single = newton_schulz(torch.randn(3, 16, 64)[1:2])
    assert single.shape == (1, 16, 64)


def test_first_step_equals_torchs_muon_for_each_matrix(seed: int) -> None:
    """torch.optim.Muon in bf16 is the reference: q, k and v given to it one by one."""
    model = small_model(seed)
    torch.manual_seed(seed + 1)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    for name in ("h.0.attn.c_attn.weight", "h.1.mlp.c_fc.weight", "h.1.mlp.c_proj.weight"):
        parameter = model.get_parameter(name)
        assert parameter.grad is not None
        n = 3 if "c_attn" in name else 1
        parts = [torch.nn.Parameter(p.clone()) for p in parameter.detach().chunk(n)]
        for part, gradient in zip(parts, parameter.grad.chunk(n), strict=True):
            part.grad = gradient.clone()
        reference = torch.optim.Muon(
            parts,
            lr=CONFIG.learning_rate * CONFIG.muon_lr_scale,
            weight_decay=CONFIG.weight_decay,
            momentum=CONFIG.muon_momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        before = parameter.detach().clone()
        reference.step()
        expected = torch.cat([part.detach() for part in parts]) - before
        updated = small_model(seed)
        other = MuonWithAdamW(updated, CONFIG)
        for p, source in zip(updated.parameters(), model.parameters(), strict=True):
            p.grad = source.grad
        other.step()
        actual = updated.get_parameter(name).detach() - before
        # The reference iterates in bf16 (8 bits); five iterations amplify its rounding.
        error = (actual - expected).norm() / expected.norm()
        assert error < 0.05, name


def test_blocks_matrices_are_muons_and_the_rest_adamws(seed: int) -> None:
    model = small_model(seed)
    optimizer = build_optimizer(model, CONFIG)
    for name, p in model.named_parameters():
        is_matrix = name.startswith("h.") and p.dim() == 2
        keys = {"momentum_buffer"} if is_matrix else {"step", "exp_avg", "exp_avg_sq"}
        assert set(optimizer.state[p]) == keys, name


def test_adamws_part_equals_adamw(seed: int) -> None:
    models = [small_model(seed) for _ in range(2)]
    optimizers = [MuonWithAdamW(models[0], CONFIG), torch.optim.AdamW(
        models[1].parameters(), lr=1e-2, betas=(CONFIG.beta1, CONFIG.beta2), weight_decay=0.0,
        fused=True,
    )]  # fmt: skip
    for step in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            torch.manual_seed(seed + step)
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
    for name in ("wte.weight", "wpe.weight", "ln_f.weight", "h.0.ln_1.bias"):
        a, b = (model.get_parameter(name) for model in models)
        assert torch.equal(a, b), name


def tensors(run: Run, file: str) -> dict[str, torch.Tensor]:
    newest = run.newest_checkpoint()
    assert newest
    return read_tensors(newest / file)


def test_resumed_equals_never_stopped(run_train: Callable[..., Run]) -> None:
    whole = run_train("whole")
    run_train("parts", "--max-steps", "4")
    parts = run_train("parts", "--resume", "--max-steps", "8")
    for key in ("train_loss", "grad_norm"):
        a, b = ([line[key] for line in run.read_metrics()] for run in (whole, parts))
        assert a == b
    for file in ("model.safetensors", "optimizer.safetensors"):
        a, b = tensors(whole, file), tensors(parts, file)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(InputError, match="optimizer was muon .* can't become adamw"):
        run_train("parts", "--resume", "--max-steps", "9", "--optimizer", "adamw")


def test_offloading_is_refused() -> None:
    with pytest.raises(InputError, match="--optimizer adamw"):
        TrainConfig(optimizer="muon", offload_optimizer=True)


def test_memory_model_counts_one_moment_of_the_matrices() -> None:
    shape = {"n_layer": 4, "n_head": 4, "n_embd": 64, "block_size": 64, "batch_tokens": 256}
    plans = [
        Plan.of(TrainConfig(optimizer=name, **shape), 320, "cpu", torch.float32, "eager")  # type: ignore[arg-type]
        for name in ("adamw", "muon")
    ]
    adamw, muon = (plan.estimate(1) for plan in plans)
    assert adamw.optimizer - muon.optimizer == 4 * 4 * 12 * 64**2
    model = GPT(plans[1].model)
    state = MuonWithAdamW(model, CONFIG).state
    stored = sum(t.nbytes for values in state.values() for k, t in values.items() if k != "step")
    assert muon.optimizer == stored


def test_checkpoint_stays_gpt2(run_train: Callable[..., Run], tmp_path: Path) -> None:
    run = run_train("hf", "--max-steps", "2")
    names = tensors(run, "model.safetensors").keys()
    assert any(name.endswith("h.0.attn.c_attn.weight") for name in names)
