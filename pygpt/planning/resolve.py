"""What a run's configuration means on a machine: nothing in a `ResolvedConfig` is "auto"."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, cast

import torch

from pygpt.config import GPTConfig, TrainConfig
from pygpt.ops.chunked_cross_entropy import gpu_memory
from pygpt.ops.dispatch import Implementations
from pygpt.planning.cards import Card, named_card
from pygpt.planning.compile import resolve_compile
from pygpt.planning.hardware import (
    DType,
    Peak,
    card_of,
    device_name,
    free_memory,
    peak_flops,
    pick_dtype,
)
from pygpt.planning.local_workers import can_share, share_step
from pygpt.planning.memory import CONTEXT_BYTES, Plan
from pygpt.utils.errors import InputError
from pygpt.utils.format import gib


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where a run computes: a device that is here, or a GPU known by its data sheet."""

    name: str
    device: torch.device
    free: int
    """Bytes of free memory of the device."""
    host_free: float
    """Bytes of free memory of the host; infinite where the host is not this machine."""
    card: Card | None
    """None for a CPU, or a GPU without a data sheet."""
    is_here: bool
    threads: int = 1
    """That a CPU computes with."""
    limit: str = ""
    """What leaves no more than `free`, such as "ulimit -v of 2.00 GiB"; empty where the device's
    memory does."""

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        """The machine this runs on, computing on `device`."""
        memory = free_memory(device)
        return cls(
            name=device_name(device),
            device=device,
            free=memory.free,
            host_free=free_memory(torch.device("cpu")).free,
            card=card_of(device) if device.type == "cuda" else None,
            is_here=True,
            threads=torch.get_num_threads(),
            limit=memory.limit,
        )

    @classmethod
    def by_data_sheet(cls, name: str) -> Machine:
        """A GPU that need not be here.

        Raises:
            InputError: there is no data sheet of that name.
        """
        card = named_card(name)
        return cls(
            name=str(card),
            device=torch.device("cuda"),
            free=card.memory - CONTEXT_BYTES,
            host_free=math.inf,
            card=card,
            is_here=False,
        )

    def pick_dtype(self, config: TrainConfig) -> torch.dtype:
        """The dtype of GEMM inputs."""
        if self.is_here:
            name = pick_dtype(config.dtype, self.device, config.n_embd)
        else:
            name = "bfloat16" if config.dtype == "auto" else config.dtype
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    @property
    def memory(self) -> int:
        """All bytes of the GPU's memory; 0 for a CPU."""
        if self.is_here:
            return gpu_memory(self.device)
        return self.card.memory if self.card else 0

    def peak(self, dtype: torch.dtype) -> Peak:
        """The rate of GEMMs: the data sheet's, or measured on the device."""
        if self.is_here or self.card is None:
            return peak_flops(self.device, dtype)
        return Peak(self.card.flops, f"{self.card.name}, bf16, data sheet")

    def __str__(self) -> str:
        if self.is_here:
            limit = f" under the {self.limit}" if self.limit else ""
            return f"{self.name}: {gib(self.free)} of memory free{limit}"
        return f"{self.name}; {gib(CONTEXT_BYTES)} of it taken by CUDA and a desktop (assumed)"


@dataclasses.dataclass(frozen=True)
class ResolvedConfig:
    """A run on a machine. Made by `resolve`."""

    config: TrainConfig
    """As it is stored: the fields below replace every "auto"."""
    model: GPTConfig
    device: torch.device
    dtype: torch.dtype
    """Of GEMM inputs."""
    impl: Implementations
    micro_batch: int
    """Sequences in memory at once."""
    compile: bool
    peak: Peak
    """What MFU divides by."""
    compile_is_auto: bool = False
    """Whether `compile` was "auto": a compiler that fails is then not an error."""
    memory: int = 0
    """All bytes of a GPU's memory."""
    ranks: int = 1
    """Processes that share the batch of a step."""
    parallel: Literal["none", "ddp", "fsdp"] = "none"
    """How they share the model; see `pygpt.training.parallel`."""
    workers: int = 1
    """Processes of this machine that share a step on a CPU, this one among them; see
    `pygpt.training.workers`."""

    def with_micro_batch(self, micro_batch: int) -> ResolvedConfig:
        """The same run with another number of sequences at once."""
        config = dataclasses.replace(self.config, micro_batch=micro_batch)
        return dataclasses.replace(self, config=config, micro_batch=micro_batch)

    def without_compile(self) -> ResolvedConfig:
        """The same run without torch.compile."""
        config = dataclasses.replace(self.config, compile=False)
        return dataclasses.replace(self, config=config, compile=False)

    @property
    def accumulation(self) -> int:
        """Micro-batches a step, of each rank."""
        return self.config.accumulation(self.micro_batch, self.ranks)

    @property
    def rank_sequences(self) -> int:
        """Sequences a step of each rank."""
        return self.config.rank_sequences(self.ranks)

    def plan(self) -> Plan:
        """What the memory of its steps depends on."""
        return Plan.of(
            self.config,
            self.model.vocab_size,
            self.device.type,
            self.dtype,
            str(self.impl),
            ranks=self.ranks,
            sharded=self.parallel == "fsdp",
            workers=self.workers,
            memory=self.memory,
        )


def resolve(
    config: TrainConfig,
    vocab_size: int,
    machine: Machine,
    *,
    check_memory: bool = True,
    ranks: int = 1,
    parallel: Literal["auto", "ddp", "fsdp"] = "auto",
) -> ResolvedConfig:
    """Replace every "auto" by what it means on a machine.

    Args:
        config: the run.
        vocab_size: rows of the embedding table.
        machine: where it runs.
        check_memory: refuse what does not fit. Without it micro_batch is 1 where nothing fits.
        ranks: processes that share the batch, each with such a machine.
        parallel: how they share the model.

    Raises:
        InputError: values that don't go together, or more than the machine's memory.
    """
    model = config.model(vocab_size)
    if ranks > 1 and config.offload_optimizer:
        raise InputError(
            f"--offload-optimizer is for one GPU, and {ranks} processes train; --parallel fsdp "
            "slices weights and moments over them"
        )
    dtype = machine.pick_dtype(config)
    impl = _pick_implementations(config, dtype, machine.device, model)
    peak = machine.peak(dtype)
    shares = ranks == 1 and can_share(config, model, machine.device.type)
    shares = shares and dtype != torch.float16 and machine.threads > 1
    # Workers gain more than a compiler, which each would have to wait for.
    compiles = not shares and resolve_compile(config, model, machine.device.type, peak.flops)
    stored = dataclasses.replace(
        config,
        device=str(machine.device) if ranks == 1 else machine.device.type,
        dtype=cast(DType, str(dtype).removeprefix("torch.")),
        impl=str(impl),
        compile=compiles,
        lr_decay_steps=config.lr_decay_steps or config.max_steps,
    )
    unfitted = ResolvedConfig(
        config=stored,
        model=model,
        device=machine.device,
        dtype=dtype,
        impl=impl,
        micro_batch=1,
        compile=compiles,
        peak=peak,
        compile_is_auto=config.compile == "auto",
        memory=machine.memory,
        ranks=ranks,
    )
    unfitted = dataclasses.replace(
        unfitted, parallel=_pick_parallel(parallel, unfitted, machine.free)
    )
    plan = unfitted.plan()
    if check_memory:
        plan.check_host(machine.host_free)
        if config.micro_batch != "auto":
            plan.check_state(machine.free, machine.limit)
    asked = None if config.micro_batch == "auto" else config.micro_batch
    try:
        threads = machine.threads if shares else 1
        workers, micro_batch = share_step(plan, asked, threads, machine.free, machine.limit)
    except InputError:
        if check_memory:
            raise
        workers, micro_batch = 1, 1
    return dataclasses.replace(unfitted.with_micro_batch(micro_batch), workers=workers)


def _pick_implementations(
    config: TrainConfig, dtype: torch.dtype, device: torch.device, model: GPTConfig
) -> Implementations:
    """The implementations of the ops; the native ones take no float16.

    Raises:
        InputError: they can't run on the device, or not with this dtype.
    """
    asked = Implementations.parse(config.impl)
    if dtype == torch.float16 and device.type == "cpu":
        if "native" in dataclasses.astuple(asked):
            raise InputError(
                f"impl={config.impl}: the native ops take float32 and bfloat16, and dtype is "
                "float16; take --impl auto"
            )
        eager = {op: "eager" for op, impl in dataclasses.asdict(asked).items() if impl == "auto"}
        asked = dataclasses.replace(asked, **eager)
    return asked.resolve(device, model)


def _pick_parallel(
    wanted: Literal["auto", "ddp", "fsdp"], run: ResolvedConfig, free: int
) -> Literal["none", "ddp", "fsdp"]:
    """DDP, which exchanges fewer bytes, where a model and its moments fit on every rank."""
    if run.ranks == 1:
        return "none"
    if wanted == "fsdp" and run.dtype == torch.float16:
        raise InputError(
            "--parallel fsdp has no loss scaling, which --dtype float16 needs; give --parallel "
            "ddp, or --dtype bfloat16"
        )
    if wanted != "auto":
        return wanted
    # The scaler of float16 looks at gradients, which have to be whole.
    if run.dtype == torch.float16:
        return "ddp"
    return "ddp" if dataclasses.replace(run, parallel="ddp").plan().fits(1, free) else "fsdp"
