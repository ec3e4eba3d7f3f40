"""The compiled core (csrc/), as Python sees it. Errors are pygpt.errors.InputError unless said."""

import os
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

class TokenFile:
    """One shard, mapped read-only."""

    @property
    def path(self) -> str: ...
    @property
    def format(self) -> str:
        """One of "raw", "llm.c", "npy"."""
    @property
    def dtype(self) -> str:
        """Either "uint16" or "uint32"."""
    @property
    def n_tokens(self) -> int: ...
    @property
    def data_offset(self) -> int:
        """Bytes in front of the first id."""

class TokenShards:
    """Shards in order, read as one long row of ids."""

    def __init__(self, paths: Iterable[str | bytes | os.PathLike[str]], raw_dtype: str) -> None: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def files(self) -> list[TokenFile]: ...
    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """Ids [start, start + length); IndexError beyond the ends."""

class BatchSampler:
    """Which windows make batch k, and filling buffers with them."""

    def __init__(
        self,
        shards: TokenShards,
        batch_size: int,
        block_size: int,
        *,
        seed: int,
        rank: int,
        world_size: int,
        sampling: str,
    ) -> None: ...
    @property
    def tokens_per_epoch(self) -> int: ...
    def fill(
        self,
        step: int,
        inputs: NDArray[np.int64],
        targets: NDArray[np.int64],
        read_ahead: bool,
    ) -> None:
        """Write batch `step`; ValueError for arrays that don't fit it.

        With `read_ahead`, a thread brings the pages of the next step into memory meanwhile.
        """
    def read_ahead(self, step: int, n_steps: int) -> None:
        """Have a thread bring the pages of `n_steps` steps into memory; none for wrong steps."""

def keyed_hashes(texts: list[bytes], key: bytes) -> bytes:
    """BLAKE2b of each text, 16 bytes, keyed; ValueError for a key that is not 1 to 64 bytes."""

def join_rows(
    ids: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    ends: NDArray[np.bool_],
    separator: int,
    dtype: str,
) -> NDArray[np.unsignedinteger]:
    """Rows [offsets[i], offsets[i + 1]) of ids, the separator behind those that end, as `dtype`.

    ValueError for offsets that don't fit.
    """

def cpu_levels() -> list[str]: ...
def cross_entropy_rows(
    *,
    logits: int,
    bfloat16: bool,
    rows: int,
    vocab: int,
    row_stride: int,
    targets: int,
    row_weight: int,
    loss: int,
    lse: int,
    ignore_index: int,
    z_loss: float,
    label_smoothing: float,
    gradient: bool,
    threads: int,
    level: str,
) -> None: ...
def accumulate(*, sum: int, addend: int, size: int, threads: int, level: str) -> None: ...
def gelu(
    *,
    x: int,
    bias: int,
    bfloat16: bool,
    rows: int,
    width: int,
    y: int,
    threads: int,
    level: str,
) -> None: ...
def gelu_backward(
    *,
    x: int,
    bias: int,
    bfloat16: bool,
    rows: int,
    width: int,
    dy: int,
    dx: int,
    dbias: int,
    threads: int,
    level: str,
) -> None: ...

attention_positions: int

def attention_backward_rows(
    *,
    scores: int,
    weights: int,
    gradient: int,
    heads: int,
    positions: int,
    scale: float,
    threads: int,
    level: str,
) -> None: ...
def read_memory(*, memory: int, size: int, piece: int, threads: int, level: str) -> int:
    """Reads `size` bytes; the exclusive or of their words of 64 bits."""

class Matrix:
    """Weights (rows, columns) at an address; `scales` of int8's rows, 0 for other types."""

    def __init__(self, *, data: int, scales: int, dtype: str, rows: int, columns: int) -> None: ...

class Norm:
    def __init__(self, *, weight: int, bias: int) -> None: ...

class Layer:
    def __init__(
        self,
        *,
        ln_1: Norm,
        c_attn: Matrix,
        c_attn_bias: int,
        attn_proj: Matrix,
        attn_proj_bias: int,
        ln_2: Norm,
        c_fc: Matrix,
        c_fc_bias: int,
        mlp_proj: Matrix,
        mlp_proj_bias: int,
    ) -> None: ...

key_block: int

class DecodeStep:
    """A step of decoding, over memory that the caller keeps; see csrc/ops/decode_step.hpp."""

    def __init__(
        self,
        *,
        layers: Sequence[Layer],
        ln_f: Norm,
        tokens: Matrix,
        positions: int,
        n_head: int,
        block_size: int,
        keys: int,
        values: int,
        bfloat16_cache: bool,
        rows: int,
        level: str,
    ) -> None: ...
    def run(
        self,
        *,
        ids: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        logits: int,
        threads: int,
    ) -> None: ...
