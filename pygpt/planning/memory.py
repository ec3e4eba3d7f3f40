"""How much memory a training step takes, and the largest micro-batch that fits.

`estimate` counts the tensors that are alive when a step needs most, one by one, from the model's
shape. It asks no device, so it answers for a GPU that is not here, before anything is built.

Sizes in comments: B sequences, T positions, M = B·T tokens, C = n_embd, V = vocab_size, H = n_head,
L = n_layer; s is the bytes of a GEMM's element: 2 under bf16 autocast, 4 in fp32.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch

from pygpt.config import GPTConfig, TrainConfig
from pygpt.ops.attention import heads_at_once
from pygpt.ops.chunked_cross_entropy import chunk_tokens
from pygpt.ops.dispatch import Implementations
from pygpt.utils.errors import InputError
from pygpt.utils.format import gib

# Of the state each tensor is known, and a caching allocator rounds each up to 2 MiB: 3 % at the
# sizes of gpt2-xl. The rest is good to 10 %, and comes and goes: it leaves gaps.
STATE_MARGIN = 1.04
STEP_MARGIN = 1.14
"""Free memory that is planned for a byte of the state, and for one of the rest."""

CONTEXT_BYTES = 768 << 20
"""What CUDA itself and a desktop take of a GPU that is not here to ask: an assumption."""

# Measured on two cores in bf16: 4 layers, 256 wide, V = 320: 15,900, 18,900, 17,600 and 17,100
# tokens/s with 1,024, 2,048, 4,096 and 8,192 at once; 3 layers, 384 wide, V = 50,304: 620, 960,
# 1,450 and 1,260.
CPU_TOKENS = 4096
"""Most tokens in a micro-batch on a CPU, where more gain nothing."""

MUON_BATCH_ELEMENTS = 1 << 24
"""Most elements that Muon orthogonalises in one batch (one matrix may be larger)."""

PROCESS_BYTES = 240 << 20
"""What a process with PyTorch takes that no other one shares."""

FP32 = 4
"""Bytes of an fp32 element: weights, their gradients, AdamW's moments and the residual stream."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes of a training step, by what they hold.

    The step accumulates over at least two micro-batches: gradients of the one before are there when
    the activations of the next are.
    """

    parameters: int
    gradients: int
    optimizer: int
    """AdamW's two moments, and the average of the weights (EMA) where one is kept; with
    --offload-optimizer on a CPU what a GPU's host would keep."""
    weight_casts: int
    """bf16 copies of the weights: made once a micro-batch by autocast, kept for the backward."""
    activations: int
    """What the forward keeps for the backward."""
    loss: int
    """On top of the activations, while the last norm, the head and the loss are computed."""
    backward: int
    """On top of the activations, while the first block is differentiated."""
    update: int
    """In Muon's update, when the activations are gone: matrices on their way through
    Newton–Schulz."""
    workers: int
    """Of the other processes of a CPU that share a step: each has gradients, activations, and what
    Python and PyTorch take."""
    host: int
    """Not on the device: what --offload-optimizer takes of the machine's memory."""

    @property
    def state(self) -> int:
        """What is there whatever the micro-batch."""
        return self.parameters + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """The peak: the loss and the backward come one after the other."""
        return self.state + max(self.step, self.update) + self.workers

    @property
    def step(self) -> int:
        """What a micro-batch needs on top of the state, in the process that computes it."""
        return self.weight_casts + self.activations + max(self.loss, self.backward)

    @property
    def planned(self) -> int:
        """Memory that has to be free for it."""
        return int(STATE_MARGIN * self.state + STEP_MARGIN * (self.total - self.state))


# --- what fits ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run on a device: all that the memory of its steps depends on but the micro-batch.

    The dtype and the implementations of the ops are resolved: none is "auto".
    """

    model: GPTConfig
    sequences: int
    """Of a step, on this device."""
    device: str
    """Type of the device, "cuda" or "cpu"."""
    dtype: torch.dtype
    impl: Implementations
    checkpointing: bool
    offload: bool
    compiled: bool
    muon: bool = False
    shards: int = 1
    """Ranks over which weights and moments are sliced (FSDP)."""
    average: bool = False
    """Whether an average of the weights is kept (EMA)."""
    workers: int = 1
    """Processes of a CPU that share a step."""
    memory: int = 0
    """All bytes of a GPU's memory."""

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        vocab_size: int,
        device: str,
        dtype: torch.dtype,
        impl: str,
        *,
        ranks: int = 1,
        sharded: bool = False,
        workers: int = 1,
        memory: int = 0,
    ) -> Plan:
        """The plan of a training run.

        Args:
            config: the run.
            vocab_size: rows of the embedding table.
            device: type of the device.
            dtype: of the GEMMs' inputs.
            impl: implementations of the ops, resolved, as text.
            ranks: processes that share the batch.
            sharded: whether they slice weights and moments (FSDP).
            workers: processes of a CPU that share a step.
            memory: all bytes of a GPU's memory.

        Raises:
            InputError: batch_tokens is not a multiple of block_size, or can't be shared evenly.
        """
        return cls(
            model=config.model(vocab_size),
            sequences=config.rank_sequences(ranks),
            device=device,
            dtype=dtype,
            impl=Implementations.parse(impl),
            checkpointing=config.checkpoint_activations,
            offload=config.offload_optimizer,
            compiled=bool(config.compile),
            muon=config.optimizer == "muon",
            shards=ranks if sharded else 1,
            average=config.ema_decay > 0,
            workers=workers,
            memory=memory,
        )

    def estimate(self, micro_batch: int) -> Estimate:
        """The memory of a step with `micro_batch` sequences at once."""
        return estimate(
            self.model,
            micro_batch,
            device=self.device,
            dtype=self.dtype,
            impl=self.impl,
            checkpointing=self.checkpointing,
            offload=self.offload,
            compiled=self.compiled,
            muon=self.muon,
            shards=self.shards,
            average=self.average,
            workers=self.workers,
            memory=self.memory,
        )

    def largest_micro_batch(self, free: int, limit: str = "") -> int:
        """The most sequences at once, a divisor of the batch's, that fit into `free` bytes.

        On a CPU no more than CPU_TOKENS tokens. `limit` says what leaves no more than `free`.

        Raises:
            InputError: not even one fits, with how much is missing and what would fit.
        """
        most = self.sequences
        if self.device == "cpu":
            most = max(1, min(most, CPU_TOKENS // self.model.block_size))
        for micro_batch in range(most, 0, -1):
            if self.sequences % micro_batch == 0 and self.fits(micro_batch, free):
                return micro_batch
        raise InputError(self._describe_shortage(free, limit))

    def fits(self, micro_batch: int, free: int) -> bool:
        """Whether a step with `micro_batch` sequences at once fits into `free` bytes."""
        return self.estimate(micro_batch).planned <= free

    def check_state(self, free: int, limit: str = "") -> None:
        """Hold what is there whatever the micro-batch against `free` bytes of the device.

        Raises:
            InputError: it does not fit, so that no micro-batch does.
        """
        if self.estimate(1).state > free:
            raise InputError(self._describe_shortage(free, limit))

    def check_host(self, free: float) -> None:
        """Hold what is needed beside the device against `free` bytes of the machine's memory.

        Raises:
            InputError: it does not fit there.
        """
        need = self.estimate(1).host
        if need > free:
            raise InputError(
                f"--offload-optimizer takes {gib(need)} of the machine's memory, and "
                f"{gib(free)} are free: {gib(need - free)} are missing. Close other "
                "programs, or take a smaller model (--n-layer, --n-embd)"
            )

    def _describe_shortage(self, free: int, limit: str) -> str:
        need = self.estimate(1)
        under = f" under the {limit}" if limit else ""
        text = (
            f"one sequence of {self.model.block_size} tokens needs {gib(need.total)}, with a "
            f"margin {gib(need.planned)}, and {gib(free)} are free{under}: "
            f"{gib(need.planned - free)} are missing"
        )
        alternatives = self.alternatives()
        for plan in alternatives:
            if plan.fits(1, free):
                return f"{text}. It fits with {plan.flags or 'no flag that saves memory'}"
        leanest = alternatives[-1]
        block_size = self.model.block_size // 2
        while block_size and STATE_MARGIN * leanest.estimate(1).state <= free:
            model = dataclasses.replace(self.model, block_size=block_size)
            if dataclasses.replace(leanest, model=model).fits(1, free):
                return f"{text}. It fits with {leanest.flags} --block-size {block_size}"
            block_size //= 2
        return (
            f"{text}. Weights, gradients and AdamW take {gib(leanest.estimate(1).state)} with "
            f"{leanest.flags}: only a smaller model fits (--n-layer, --n-embd)"
        )

    @property
    def flags(self) -> str:
        """The flags by which this plan saves memory."""
        flags = {
            "--checkpoint-activations": self.checkpointing,
            "--offload-optimizer": self.offload,
        }
        return " ".join(flag for flag, given in flags.items() if given)

    def alternatives(self) -> list[Plan]:
        """The same run with each choice of flags that save memory here, from none to all."""
        can_offload = self.device == "cuda" and self.dtype == torch.bfloat16 and not self.muon
        offload = (False, True) if can_offload else (False,)
        return [
            dataclasses.replace(self, offload=offloaded, checkpointing=recomputed)
            for offloaded, recomputed in itertools.product(offload, (False, True))
        ]


def ways_out(config: TrainConfig) -> str:
    """What to try where not even one sequence at a time fits into the memory of the device."""
    ways = ["a shorter --block-size or a smaller model (--n-layer, --n-embd)"]
    if not config.offload_optimizer and config.dtype == "bfloat16":
        ways.insert(0, "--offload-optimizer")
    if not config.checkpoint_activations:
        ways.insert(0, "--checkpoint-activations")
    return f"try {', '.join(ways)}"


# --- the estimate ---------------------------------------------------------------------------------


def estimate(
    config: GPTConfig,
    micro_batch: int,
    *,
    device: str,
    dtype: torch.dtype,
    impl: Implementations,
    checkpointing: bool = False,
    offload: bool = False,
    compiled: bool = False,
    muon: bool = False,
    shards: int = 1,
    average: bool = False,
    workers: int = 1,
    memory: int = 0,
) -> Estimate:
    """The memory of a training step at its peak.

    Args:
        config: the model.
        micro_batch: sequences, each of block_size tokens.
        device: type of the device, "cuda" or "cpu".
        dtype: of the GEMMs' inputs.
        impl: implementations of the ops, resolved: none is "auto".
        checkpointing: whether blocks are computed again in the backward.
        offload: whether fp32 weights and AdamW's moments are the host's.
        compiled: whether the model runs through torch.compile.
        muon: whether the matrices of the blocks are Muon's, with one moment and not two.
        shards: ranks over which weights and moments are sliced. Gradients are whole until the last
            micro-batch.
        average: whether an average of the weights is kept (EMA).
        workers: processes of a CPU that share a step.
        memory: all bytes of a GPU's memory, on which the length of the loss's chunks depends.
    """
    tokens, c, s = micro_batch * config.block_size, config.n_embd, dtype.itemsize
    parameters = gradients = FP32 * config.n_params()
    optimizer, host = 2 * parameters, 0
    if muon:
        optimizer -= FP32 * config.n_layer * 12 * c**2
    if average:
        optimizer += parameters
    casts = _block_casts(config, s)
    if shards > 1:
        # Gathered: embeddings all the time, a block that computes and the one that comes next.
        gathered = config.n_params() - (config.n_layer - 2) * config.n_params_of_block()
        parameters = parameters // shards + FP32 * min(gathered, config.n_params())
        optimizer //= shards
    if offload:
        kept = _kept_by_host(config)
        # A checkpoint is written from a copy of the weights: theirs are transposed.
        kept += parameters if average else 0
        optimizer, host = (kept, 0) if device == "cpu" else (0, kept + parameters)
        parameters -= (FP32 - s) * config.n_layer * 12 * c**2
        casts = 0
    block = _block_activations(config, tokens, s, device)
    # The residual stream in fp32 and the sublayer's output that is not yet added to it.
    block_inputs = (FP32 + s) * tokens * c
    ids = 2 * 8 * tokens  # inputs and targets, int64
    loss = _norm_activations(tokens, c, s)
    loss += _loss(config, tokens, s, device, impl, compiled, memory)
    backward = _block_backward(tokens, c, s)
    if impl.attention == "native" and dtype == torch.bfloat16 and not config.dropout:
        # Measured: Inductor, when it computes a block again, keeps the MLP until the block is done.
        mlp_is_gone = not (compiled and checkpointing)
        backward = max(backward, _native_attention_backward(config, micro_batch, mlp_is_gone))
    # The head's part of the embedding's gradient waits for the other part, which comes last.
    backward += FP32 * config.vocab_size * c
    if checkpointing:
        if impl.linear_cross_entropy != "eager":  # whose peak is in the backward
            loss += (config.n_layer - 1) * casts  # autocast keeps them until the forward is over
        backward += block
        if compiled and not offload:
            # Measured: Inductor computes more of the block again before it differentiates any:
            # one tensor more of the MLP's width and of the stream, two where it sees into the GELU,
            # none where there are no weights to cast.
            more = 2 if impl.gelu == "eager" else 1
            backward += more * (4 * s + FP32) * tokens * c
    one = Estimate(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        weight_casts=casts * (1 if checkpointing else config.n_layer),
        activations=ids + config.n_layer * (block_inputs if checkpointing else block),
        loss=loss,
        backward=backward,
        update=_muon_update(config, FP32 if dtype == torch.float16 else s) if muon else 0,
        workers=0,
        host=host,
    )
    # A worker's own gradients are gone when they are in the shared memory: both exist in between.
    other = PROCESS_BYTES + 2 * one.gradients + one.step
    return dataclasses.replace(one, workers=(workers - 1) * other)


def _muon_update(config: GPTConfig, s: int) -> int:
    """At most 7 copies of a batch of matrices: single, stacked, scaled, two Gram, old and new."""
    square, wide = config.n_embd**2, 4 * config.n_embd**2
    largest = max(
        min(4 * config.n_layer * square, max(MUON_BATCH_ELEMENTS, square)),
        min(2 * config.n_layer * wide, max(MUON_BATCH_ELEMENTS, wide)),
    )
    return 7 * s * largest


def _kept_by_host(config: GPTConfig) -> int:
    """fp32 weights, both moments, and the memory that two parts of the model pass through."""
    largest = max(config.vocab_size * config.n_embd, config.n_params_of_block())
    return 3 * FP32 * config.n_params() + 2 * FP32 * largest


def _block_activations(config: GPTConfig, tokens: int, s: int, device: str) -> int:
    """What one block keeps: 36·M·C bytes under bf16 and 64·M·C in fp32, and statistics."""
    width = tokens * config.n_embd
    kept = 2 * _norm_activations(tokens, config.n_embd, s)  # the inputs of c_attn and of c_fc
    kept += 3 * s * width  # q, k, v
    kept += s * width  # attention's output, which is the input of c_proj
    kept += FP32 * tokens * config.n_head  # attention's log-sum-exp
    kept += 4 * s * width  # the input of the GELU, with the bias added
    kept += 4 * s * width  # its output, which is the input of the MLP's c_proj
    if config.dropout:
        # A mask behind each of the two c_proj: bytes on a GPU, numbers to multiply with on a CPU.
        kept += 2 * width * (1 if device == "cuda" else s)
        if device == "cpu":
            # No fused attention with dropout there: the weights, the mask and their product in
            # fp32, and under autocast the cast of the last.
            weights = tokens * config.n_head * config.block_size
            kept += (3 * FP32 + (s if s < FP32 else 0)) * weights
    return kept


def _norm_activations(tokens: int, c: int, s: int) -> int:
    # The sum that is normalised, in fp32; its mean and rstd; the result, as the next GEMM reads it.
    return (FP32 + s) * tokens * c + 2 * FP32 * tokens


def _block_casts(config: GPTConfig, s: int) -> int:
    return 0 if s == FP32 else s * 12 * config.n_embd**2


def _loss(
    config: GPTConfig,
    tokens: int,
    s: int,
    device: str,
    impl: Implementations,
    compiled: bool,
    memory: int,
) -> int:
    """Head and loss, forward and backward, without the head's input."""
    logits, weight = tokens * config.vocab_size, config.vocab_size * config.n_embd
    cast = 0 if s == FP32 else s * weight
    if impl.linear_cross_entropy != "eager":
        chunk = chunk_tokens(tokens, config.vocab_size, s, device, memory)
        buffers = s * chunk * config.vocab_size
        buffers += FP32 * weight + s * tokens * config.n_embd  # gradients of the weight and of x
        buffers += 2 * FP32 * tokens  # each token's loss and log-sum-exp
        # On a CPU a chunk's part of the weight's gradient is made in bf16, then added.
        return buffers + cast * (2 if device == "cpu" else 1)
    if compiled:
        # Inductor keeps the logits in the GEMM's dtype and writes their gradient in their place.
        return s * logits + FP32 * weight + cast
    # The log-softmax that the forward kept, the gradient towards it and the one towards the logits.
    return 3 * FP32 * logits + cast


def _block_backward(tokens: int, c: int, s: int) -> int:
    """Gradients alive at the GELU, the widest place, less what its layer has let go already."""
    # Towards the stream and the sublayer; towards the GELU's output and its input, of which the
    # output itself, counted with the activations, is gone.
    return (FP32 + s) * tokens * c + (4 + 4 - 4) * s * tokens * c


def _native_attention_backward(config: GPTConfig, micro_batch: int, mlp_is_gone: bool) -> int:
    """What attention's backward on a CPU holds, less what its layer has let go already."""
    tokens, c, s = micro_batch * config.block_size, config.n_embd, torch.bfloat16.itemsize
    gone = _norm_activations(tokens, c, s) + s * tokens * c  # the MLP's norm; attention's output
    if mlp_is_gone:
        gone += (4 + 4) * s * tokens * c  # input and output of the GELU
    # Towards the stream; by heads: q, k, v, the gradient of the output, and those of q, k and v.
    held = (FP32 + s) * tokens * c + (4 + 3) * s * tokens * c
    heads = min(heads_at_once(config.block_size), micro_batch * config.n_head)
    scores = (FP32 + 2 * s) * heads * config.block_size**2  # with the weights and their gradient
    return held + scores - gone
