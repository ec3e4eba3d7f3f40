"""What a model and a run are made of: `GPTConfig`, `TrainConfig` and the named presets.

A run's configuration is the preset's values, over them a TOML file's, over them the flags'.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import tomli_w
import typeguard

from pygpt.utils.errors import InputError, check_seed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOT_STORED = ("config", "resume", "dry_run", "card", "decay_now")
"""Fields of TrainConfig that are about one start of a run."""

VOCAB_MULTIPLE = 64
"""Rows of the embedding table are padded to a multiple of this: GEMMs run faster on round sizes."""


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2-class model, with nanoGPT's field names."""

    block_size: int = 1024
    """Positions: the longest context, in tokens."""
    vocab_size: int = 50304
    """Rows of the embedding table; ids the tokenizer does not know are padding."""
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    """Biases in linear layers and layer norms, as GPT-2 has them."""

    def __post_init__(self) -> None:
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_embd % self.n_head:
            below = self.n_embd - self.n_embd % self.n_head
            nearest = [str(n) for n in (below, below + self.n_head) if n]
            raise InputError(
                f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}; "
                f"the nearest widths that are: {', '.join(nearest)}"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {self.dropout}")

    def n_params(self, *, positions: bool = True) -> int:
        """Parameters, the tied head counted once; without position embeddings if asked."""
        norm = self.n_embd * (1 + self.bias)
        total = self.vocab_size * self.n_embd + self.n_layer * self.n_params_of_block() + norm
        return total + (self.block_size * self.n_embd if positions else 0)

    def n_params_of_block(self) -> int:
        """Parameters of one block."""
        c = self.n_embd
        return 12 * c * c + 2 * c + (11 * c if self.bias else 0)

    def flops_per_token(self, *, causal: bool = False) -> int:
        """Operations of a training step per token, forward and backward.

        6·N + 12·L·C·T (Chowdhery et al. 2022, appendix B), which counts attention as if it were
        not causal: nanoGPT's convention, so that figures can be compared. With `causal`, attention
        counts half, which is what is computed.
        """
        attention = (6 if causal else 12) * self.n_layer * self.n_embd * self.block_size
        return 6 * self.n_params(positions=False) + attention


def padded_vocab_size(n_vocab: int) -> int:
    """The rows of an embedding table for a tokenizer of `n_vocab` ids."""
    return -(-n_vocab // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a GPT.

    With no arguments: on the source of this Python's standard library, with a model and a length
    that suit the machine. Values come from the preset, over them the TOML file, over them the
    flags.
    """

    preset: str = "auto"
    """Where all values start from: stdlib-cpu, stdlib-gpu, shakespeare-char, owt-30m, fineweb-40m,
    gpt2, gpt2-medium, gpt2-large or gpt2-xl. "auto" takes stdlib-gpu or stdlib-cpu."""
    config: Path | None = None
    """TOML file of further values, by the names listed here."""
    data: Path | None = None
    """Dataset directory of pygpt.prepare, nanoGPT or llm.c. The stdlib presets make their own."""
    init_from: str | None = None
    """Start from the weights of a model, whose layers, heads, width and biases are taken: gpt2,
    gpt2-medium …, OWNER/NAME on the Hub, a run, or a directory. Default: fresh weights."""
    out: Path | None = None
    """Run directory. Default: runs/PRESET-DATE-TIME."""
    resume: bool = False
    """Go on from the newest checkpoint of --out, or of the newest run, exactly where it was."""
    dry_run: bool = False
    """Print what the run would take, in memory and at least in time; train nothing."""
    card: str | None = None
    """With --dry-run, the card to reckon with, such as "RTX 4070". Default: this machine."""

    device: str = "auto"
    """"cpu", "cuda", "cuda:1" …; "auto" takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of GEMM inputs; weights stay float32. "auto" takes bfloat16 where it is faster."""
    impl: str = "auto"
    """Kernels: "auto", "eager", "triton", "native", or by op: "attention=eager,gelu=triton"."""
    compile: bool | Literal["auto"] = "auto"
    """Run the model through torch.compile: half a minute at the start, then steps that are a few
    percent shorter. "auto" does it where it pays back within the run, and says so."""
    checkpoint_activations: bool = False
    """Keep only the inputs of each block, a sixth of its activations, and compute it again in the
    backward: steps took 15 percent longer on a CPU."""
    offload_optimizer: bool = False
    """Keep fp32 weights and AdamW's moments in the machine's memory and update them there: a GPU
    then holds 6 bytes a parameter, not 16, and waits for it once a step. With bfloat16 only."""
    seed: int = 1337
    """Fixes initial weights, batches and dropout."""

    n_layer: int = 12
    """Transformer blocks."""
    n_head: int = 12
    """Attention heads a block."""
    n_embd: int = 768
    """Width, in channels; a multiple of n_head."""
    block_size: int = 1024
    """Context, in tokens."""
    dropout: float = 0.0
    """Probability of dropping an activation."""
    bias: bool = True
    """Biases in linear layers and layer norms, as GPT-2 has them."""

    batch_tokens: int = 524288
    """Tokens a step, over all micro-batches: the batch that the optimiser sees."""
    micro_batch: int | Literal["auto"] = "auto"
    """Sequences in memory at once. Changes memory and speed, never the batch of a step."""
    max_steps: int = 19560
    """Optimiser steps."""
    sampling: Literal["permutation", "random"] = "permutation"
    """"permutation" visits every window once an epoch; "random" draws with replacement."""

    learning_rate: float = 6e-4
    """Peak learning rate of AdamW."""
    min_lr: float = 6e-5
    """Learning rate at the end of the cosine decay."""
    warmup_steps: int = 700
    """Steps over which the rate rises linearly to its peak."""
    lr_decay_steps: int | None = None
    """Step at which the rate reaches min_lr. Default: max_steps."""
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """How the rate falls to min_lr after the warm-up: along a cosine, linearly, or (wsd) linearly
    after a stable phase at the peak."""
    decay_fraction: float = 0.2
    """Share of the steps over which wsd decays, the last ones."""
    decay_from: int | None = None
    """Step at which wsd starts to decay. Default: what decay_fraction gives."""
    decay_now: int | None = None
    """With --resume and wsd: decay over this many steps from the newest checkpoint on, and end."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon updates the matrices of the blocks by orthogonalised momentum, and AdamW the rest."""
    muon_momentum: float = 0.95
    """Muon's decay of the momentum."""
    muon_lr_scale: float = 0.5
    """Muon's learning rate as a multiple of learning_rate, scaled to the RMS of AdamW's updates."""
    weight_decay: float = 0.1
    """Decay of matrices; biases and norms have none."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.95
    """AdamW's decay of the second moment."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""

    eval_interval: int = 250
    """Steps between evaluations."""
    eval_tokens: int = 2**20
    """Tokens of the validation split an evaluation reads: the same windows every time."""
    log_interval: int = 10
    """Steps between lines printed where there is no terminal; metrics.jsonl has every step."""
    checkpoint_interval: int = 1000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep; the one with the best validation loss stays besides."""
    prompt: str = ""
    """Text that the sample at the end starts with."""

    def __post_init__(self) -> None:
        positive = (
            "batch_tokens", "max_steps", "eval_interval", "eval_tokens", "log_interval",
            "checkpoint_interval", "keep_checkpoints", "learning_rate", "block_size",
        )  # fmt: skip
        for name in positive:
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be finite and above 0, got {getattr(self, name)}")
        for name in ("min_lr", "warmup_steps", "weight_decay", "grad_clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"{name} must be finite and not negative, got {getattr(self, name)}"
                )
        if self.min_lr > self.learning_rate:
            raise InputError(
                f"min_lr={self.min_lr:g} is above learning_rate={self.learning_rate:g}, which "
                f"decays to it; a tenth, --min-lr {self.learning_rate / 10:g}, is usual"
            )
        if self.lr_decay_steps is not None and self.lr_decay_steps < 1:
            raise InputError(f"lr_decay_steps must be above 0, got {self.lr_decay_steps}")
        check_seed(self.seed)
        for name in ("beta1", "beta2", "muon_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.offload_optimizer and self.dtype == "float32":
            raise InputError(
                "--offload-optimizer keeps weights in bfloat16 on the device, and dtype is "
                "float32; give --dtype bfloat16, or leave --offload-optimizer out"
            )
        self._check_optimizer()
        self._check_decay()
        if self.card and not self.dry_run:
            raise InputError("--card names a card to reckon with, which only --dry-run does")

    def _check_optimizer(self) -> None:
        if self.offload_optimizer and self.optimizer == "muon":
            raise InputError(
                "--offload-optimizer updates weights on the CPU, where Muon's matrix products take "
                "longer than the step; leave it out, or give --optimizer adamw"
            )
        if not 0 < self.muon_lr_scale < math.inf:
            raise InputError(f"muon_lr_scale must be above 0, got {self.muon_lr_scale}")

    def _check_decay(self) -> None:
        if not 0 < self.decay_fraction <= 1:
            raise InputError(
                f"decay_fraction must be above 0 and at most 1, got {self.decay_fraction:g}"
            )
        if self.decay_from is not None and self.schedule != "wsd":
            raise InputError(
                f"decay_from={self.decay_from} needs --schedule wsd, and this is {self.schedule}"
            )
        if self.decay_now is not None:
            if not self.resume:
                raise InputError("--decay-now ends a run that is there; give --resume --out RUN")
            if self.decay_now < 1:
                raise InputError(f"decay_now must be at least 1 step, got {self.decay_now}")

    def model(self, vocab_size: int) -> GPTConfig:
        """The model this run trains, for an embedding table of `vocab_size` rows."""
        shared = {field.name for field in dataclasses.fields(GPTConfig)} - {"vocab_size"}
        return GPTConfig(vocab_size=vocab_size, **{name: getattr(self, name) for name in shared})

    def check_shapes(self) -> None:
        """Check what no single value shows: the model's shape, and how the batch divides.

        Raises:
            InputError: it does not divide, with the nearest that does.
        """
        self.model(vocab_size=1)
        self.batch_sequences()
        if self.micro_batch != "auto":
            self.accumulation(self.micro_batch)

    def batch_sequences(self) -> int:
        """Sequences a step.

        Raises:
            InputError: batch_tokens is not a multiple of block_size, with the nearest that are.
        """
        if self.batch_tokens % self.block_size:
            raise InputError(
                f"batch_tokens={self.batch_tokens} is not a multiple of "
                f"block_size={self.block_size}; the nearest that are: "
                f"{_multiples_around(self.batch_tokens, self.block_size)}"
            )
        return self.batch_tokens // self.block_size

    def accumulation(self, micro_batch: int) -> int:
        """Micro-batches of `micro_batch` sequences a step.

        Raises:
            InputError: they do not divide the batch, with the nearest that do, and the nearest
                totals that they divide.
        """
        if micro_batch < 1:
            raise InputError(f"micro_batch must be at least 1, got {micro_batch}")
        sequences = self.batch_sequences()
        if sequences % micro_batch:
            totals = _multiples_around(self.batch_tokens, micro_batch * self.block_size)
            raise InputError(
                f"micro_batch={micro_batch} does not divide the {sequences} sequences of a step; "
                f"the nearest that do: {_divisors_around(sequences, micro_batch)}; or make "
                f"batch_tokens {totals}"
            )
        return sequences // micro_batch

    def as_toml(self) -> str:
        """Every value that is set; `read_toml` reads it back."""
        values = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
            if value is not None and name not in NOT_STORED
        }
        return tomli_w.dumps(values)


def _multiples_around(total: int, unit: int) -> str:
    below = total - total % unit
    return " or ".join(str(n) for n in (below, below + unit) if n)


def _divisors_around(total: int, wanted: int) -> str:
    below = next(n for n in range(min(wanted, total), 0, -1) if total % n == 0)
    # The divisors above `wanted` are total / n for the n below total / wanted.
    above = next((total // n for n in range(total // wanted, 0, -1) if total % n == 0), None)
    return " or ".join(str(n) for n in (below, above) if n)


_GPT2 = {"batch_tokens": 524288, "max_steps": 19560, "warmup_steps": 700}
_STDLIB = {"bias": False, "eval_interval": 200, "checkpoint_interval": 200, "prompt": "def "}

PRESETS: dict[str, dict[str, Any]] = {
    # The default run on a CPU: under two minutes on two cores, where many small steps of a small
    # model, at a short context, get furthest.
    "stdlib-cpu": {
        **_STDLIB,
        "n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64,
        "batch_tokens": 12 * 64, "max_steps": 3000, "warmup_steps": 100,
        "learning_rate": 3e-3, "min_lr": 3e-4, "beta2": 0.99, "eval_tokens": 2**16,
        "eval_interval": 700, "checkpoint_interval": 700, "log_interval": 100,
    },
    # Four passes over the corpus need no dropout, and with it attention would be PyTorch's.
    "stdlib-gpu": {
        **_STDLIB,
        "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 512,
        "batch_tokens": 32768, "max_steps": 1500, "warmup_steps": 100,
        "learning_rate": 1e-3, "min_lr": 1e-4, "eval_tokens": 2**18,
    },
    # nanoGPT's config/train_shakespeare_char.py, over bytes.
    "shakespeare-char": {
        "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "dropout": 0.2, "bias": False,
        "batch_tokens": 64 * 256, "max_steps": 5000, "warmup_steps": 100,
        "learning_rate": 1e-3, "min_lr": 1e-4, "beta2": 0.99,
        "eval_interval": 250, "eval_tokens": 2**18, "checkpoint_interval": 500,
    },
    "owt-30m": {
        "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 512, "bias": False,
        "batch_tokens": 64 * 512, "max_steps": 20000, "warmup_steps": 500,
    },
    "fineweb-40m": {
        "n_layer": 12, "n_head": 12, "n_embd": 384, "block_size": 1024, "bias": False,
        "batch_tokens": 512 * 1024, "max_steps": 6000, "warmup_steps": 300,
        "learning_rate": 5e-4, "min_lr": 5e-5,
    },
    # GPT-2's four sizes; rates by size from Brown et al. 2020, table 2.1.
    "gpt2": {**_GPT2, "n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {
        **_GPT2, "n_layer": 24, "n_head": 16, "n_embd": 1024,
        "learning_rate": 3e-4, "min_lr": 3e-5,
    },
    "gpt2-large": {
        **_GPT2, "n_layer": 36, "n_head": 20, "n_embd": 1280,
        "learning_rate": 2.5e-4, "min_lr": 2.5e-5,
    },
    "gpt2-xl": {
        **_GPT2, "n_layer": 48, "n_head": 25, "n_embd": 1600,
        "learning_rate": 2e-4, "min_lr": 2e-5,
    },
}  # fmt: skip


def from_preset(name: str) -> TrainConfig:
    """The configuration a preset stands for.

    Raises:
        InputError: there is no such preset, with the nearest name.
    """
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}; {nearest(name, list(PRESETS))}")
    return TrainConfig(preset=name, **PRESETS[name])


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file, by field, each of its field's type.

    Raises:
        InputError: the file can't be read, has a field or a type that does not exist here, a field
            that only a flag can give, or an unknown preset.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"can't read the config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    hints = get_type_hints(TrainConfig)
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"{path}: no field {name!r}; {nearest(name, list(hints))}")
        if name in NOT_STORED:
            raise InputError(
                f"{path}: {name} is about one start of a run; give it as the flag "
                f"--{name.replace('_', '-')}"
            )
        values[name] = _from_toml_value(path, name, value, hints[name])
    if values.get("preset", "auto") != "auto":
        from_preset(values["preset"])
    return values


def _from_toml_value(path: Path, name: str, value: Any, hint: Any) -> Any:
    """Check one value against its field's type; TOML has no paths, and writes 1.0 as 1 too."""
    if Path in get_args(hint) and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    try:
        if isinstance(value, bool) and bool not in (hint, *get_args(hint)):
            raise typeguard.TypeCheckError("bool is not expected")
        return typeguard.check_type(value, hint)
    except typeguard.TypeCheckError as error:
        raise InputError(f"{path}: {name} = {value!r} can't be used: {error}") from error


def nearest(name: str, names: list[str]) -> str:
    """The hint behind an unknown name: the closest one, or all of them."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
