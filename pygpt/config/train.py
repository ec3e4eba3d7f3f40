"""What a training run is: `TrainConfig`.

A run's configuration is the preset's values, over them a TOML file's, over them the flags'.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

import tomli_w
import tyro

from pygpt.config.data_parts import DataPart, parse_data
from pygpt.config.gpt import GPTConfig
from pygpt.utils.errors import InputError, check_seed

_LARGEST = 2**40  # of steps and tokens: beyond that is a mistake, not a run

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a GPT.

    With no arguments: on the source of this Python's standard library, with a model and a length
    that suit the machine. Values come from the preset, over them the TOML file, over them the
    flags.
    """

    preset: str = "auto"
    """Where all values start from: stdlib-cpu, stdlib-gpu, shakespeare-char, owt-30m, fineweb-40m,
    gpt2, gpt2-medium, gpt2-large, gpt2-xl or chat. "auto" takes stdlib-gpu or stdlib-cpu."""
    data: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Dataset directory of pygpt.prepare, nanoGPT or llm.c; several with their shares of each batch
    as --data A:0.7 --data B:0.3. The stdlib presets make their own."""
    tokenizer: str | None = None
    """Whose ids they are, gpt2 or bytes, where there is no dataset.json. Default: gpt2, if the ids
    don't contradict that."""
    init_from: str | None = None
    """Start from the weights of a model, whose layers, heads, width and biases are taken: gpt2,
    gpt2-medium …, OWNER/NAME on the Hub, a run, or a directory. Default: fresh weights."""
    out: Path | None = None
    """Run directory. Default: runs/PRESET-DATE-TIME."""

    device: str = "auto"
    """"cpu", "cuda", "cuda:1" …; "auto" takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of GEMM inputs; weights stay float32. "auto" takes bfloat16 where it is faster. float16
    is for GPUs without bfloat16 (T4): the loss is scaled, and a step that overflows is skipped."""
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
    epochs: float | None = None
    """Ends the run after so many passes over the data, if max_steps does not come first."""
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
    ema_decay: float = 0.0
    """Keep an average of the weights beside them, which --average of eval, sample and export takes:
    0.999 is of about the last 1,000 steps. 0 keeps none."""
    block_warmup_steps: int = 0
    """Steps in which sequences grow: an eighth of block_size, a quarter, a half, for a third of
    these steps each. The windows are cut, so that a step has the same tokens."""
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
    track: str | None = None
    """Where figures go besides metrics.jsonl: tensorboard, wandb, mlflow, trackio, or several as
    wandb,mlflow; "" is none. Default: TensorBoard where it is installed."""
    prompt: str = ""
    """Text that the sample at the end starts with."""

    def __post_init__(self) -> None:
        parse_data(self.data)
        positive = (
            "batch_tokens", "max_steps", "eval_interval", "eval_tokens", "log_interval",
            "checkpoint_interval", "keep_checkpoints", "learning_rate", "block_size",
        )  # fmt: skip
        for name in positive:
            if not 0 < getattr(self, name) <= _LARGEST:
                raise InputError(
                    f"{name} must be above 0 and at most 2**40, got {getattr(self, name)}"
                )
        for name in ("min_lr", "warmup_steps", "weight_decay", "grad_clip", "block_warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"{name} must be finite and not negative, got {getattr(self, name)}"
                )
        if self.min_lr > self.learning_rate:
            raise InputError(
                f"min_lr={self.min_lr:g} is above learning_rate={self.learning_rate:g}, which "
                f"decays to it; a tenth, --min-lr {self.learning_rate / 10:g}, is usual"
            )
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise InputError(f"epochs must be finite and above 0, got {self.epochs}")
        if self.lr_decay_steps is not None and self.lr_decay_steps < 1:
            raise InputError(f"lr_decay_steps must be above 0, got {self.lr_decay_steps}")
        check_seed(self.seed)
        for name in ("beta1", "beta2", "muon_momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.offload_optimizer and self.dtype in ("float32", "float16"):
            raise InputError(
                "--offload-optimizer keeps weights in bfloat16 on the device, and dtype is "
                f"{self.dtype}; give --dtype bfloat16, or leave --offload-optimizer out"
            )
        self._check_optimizer()
        self._check_decay()
        for name in self.trackers or ():
            if name not in TRACKERS:
                raise InputError(
                    f"track={self.track}: there is no tracker {name!r}; there are "
                    f"{', '.join(TRACKERS)}"
                )

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

    @property
    def trackers(self) -> tuple[str, ...] | None:
        """The names in `track`."""
        if self.track is None:
            return None
        return tuple(name.strip() for name in self.track.split(",") if name.strip())

    @property
    def data_parts(self) -> tuple[DataPart, ...]:
        """The datasets of `data`."""
        return parse_data(self.data)

    def model(self, vocab_size: int) -> GPTConfig:
        """The model this run trains, for an embedding table of `vocab_size` rows."""
        shared = {field.name for field in dataclasses.fields(GPTConfig)} - {"vocab_size"}
        return GPTConfig(vocab_size=vocab_size, **{name: getattr(self, name) for name in shared})

    def check_shapes(self, ranks: int = 1) -> None:
        """Check what no single value shows: the model's shape, and how the batch divides.

        Args:
            ranks: processes that share the batch.

        Raises:
            InputError: it does not divide, with the nearest that does.
        """
        self.model(vocab_size=1)
        if self.block_warmup_steps and self.block_size % 8:
            raise InputError(
                f"block_warmup_steps cuts windows into eighths, and block_size={self.block_size} "
                f"is not a multiple of 8; the nearest that are: "
                f"{_multiples_around(self.block_size, 8)}"
            )
        self.rank_sequences(ranks)
        if self.micro_batch != "auto":
            self.accumulation(self.micro_batch, ranks)

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

    def rank_sequences(self, ranks: int) -> int:
        """Sequences a step of each of `ranks` processes.

        Raises:
            InputError: they can't share the batch evenly, with the nearest numbers that can.
        """
        sequences = self.batch_sequences()
        if sequences % ranks:
            totals = _multiples_around(self.batch_tokens, ranks * self.block_size)
            raise InputError(
                f"{ranks} processes can't share the {sequences} sequences of a step evenly; the "
                f"nearest numbers that can: {_divisors_around(sequences, ranks)}; or make "
                f"batch_tokens {totals}"
            )
        return sequences // ranks

    def accumulation(self, micro_batch: int, ranks: int = 1) -> int:
        """Micro-batches of `micro_batch` sequences a step, of each of `ranks` processes.

        Raises:
            InputError: they do not divide the batch, with the nearest that do, and the nearest
                totals that they divide.
        """
        if micro_batch < 1:
            raise InputError(f"micro_batch must be at least 1, got {micro_batch}")
        sequences = self.rank_sequences(ranks)
        if sequences % micro_batch:
            totals = _multiples_around(self.batch_tokens, ranks * micro_batch * self.block_size)
            each = "" if ranks == 1 else f" of each of {ranks} processes"
            raise InputError(
                f"micro_batch={micro_batch} does not divide the {sequences} sequences of a step"
                f"{each}; the nearest that do: {_divisors_around(sequences, micro_batch)}; or make "
                f"batch_tokens {totals}"
            )
        return sequences // micro_batch

    def as_toml(self) -> str:
        """Every value that is set; `pygpt.config.toml_file.read` reads it back."""
        values = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
            if value not in (None, ())
        }
        if len(self.data) == 1:
            values["data"] = self.data[0]
        return tomli_w.dumps(values)


def _multiples_around(total: int, unit: int) -> str:
    below = total - total % unit
    return " or ".join(str(n) for n in (below, below + unit) if n)


def _divisors_around(total: int, wanted: int) -> str:
    small = [n for n in range(1, math.isqrt(total) + 1) if total % n == 0]
    divisors = {*small, *(total // n for n in small)}
    around = [
        max((n for n in divisors if n <= wanted), default=None),
        min((n for n in divisors if n > wanted), default=None),
    ]
    return " or ".join(str(n) for n in around if n)
