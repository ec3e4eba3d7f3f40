"""What the kernels of attention share: tiles of rows in and out, the causal mask, dropout."""

import triton
import triton.language as tl

# A masked score. Finite, so that no inf - inf can arise; far below any score of finite inputs.
MASKED = tl.constexpr(-1.0e30)

# The fewest rounds of Philox4x32 that pass all tests of TestU01 (Salmon et al. 2011, table 2).
PHILOX_ROUNDS = tl.constexpr(7)


@triton.jit
def head_base(
    ptr,  # (B, T, …), the heads' channels side by side
    head,  # of all sequences: sequence · n_head + head
    n_head,
    batch_stride,  # elements
    HEAD: tl.constexpr,  # channels of a head
):
    """Where the first row of a head begins."""
    batch = (head // n_head).to(tl.int64)
    return ptr + batch * batch_stride + (head % n_head) * HEAD


@triton.jit
def load_tile(
    base_ptr,  # (n_rows, HEAD), rows row_stride apart
    start,  # first row
    n_rows,
    row_stride,  # elements
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    CHECK_ROWS: tl.constexpr,  # whether rows may lie beyond the last
):
    """Rows [start, start + BLOCK) of one head; zero beyond the last row and the head size."""
    rows = start + tl.arange(0, BLOCK)
    columns = tl.arange(0, HEAD_BLOCK)
    pointers = base_ptr + rows.to(tl.int64)[:, None] * row_stride + columns[None, :]
    mask = (columns < HEAD)[None, :]
    if CHECK_ROWS:
        mask = mask & (rows < n_rows)[:, None]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store_tile(
    base_ptr,  # (n_rows, HEAD), rows row_stride apart
    tile,  # (BLOCK, HEAD_BLOCK)
    start,  # first row
    n_rows,
    row_stride,  # elements
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
):
    """Write the rows and channels that exist."""
    rows = start + tl.arange(0, BLOCK)
    columns = tl.arange(0, HEAD_BLOCK)
    pointers = base_ptr + rows.to(tl.int64)[:, None] * row_stride + columns[None, :]
    mask = (rows < n_rows)[:, None] & (columns < HEAD)[None, :]
    tl.store(pointers, tile.to(base_ptr.dtype.element_ty), mask=mask)


@triton.jit
def mask_future(scores, queries, keys):
    """The scores, MASKED where the key comes after the query."""
    return tl.where(queries >= keys, scores, MASKED)


@triton.jit
def kept_weights(
    seed,  # int64
    head,  # of all sequences
    q_start,
    k_start,  # a multiple of 4
    Q_BLOCK: tl.constexpr,
    K_BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,  # the probability of dropping a weight, times 2³²
):
    """Which weights of a tile dropout keeps: (Q_BLOCK, K_BLOCK), a function of its place alone.

    Philox4x32 (Salmon et al. 2011) with the key `seed` and the counter (query, key // 4, head, 0)
    gives 32 random bits for each of four neighbouring keys. So kernels with different tiles see
    the same mask, and nothing of it is stored.
    """
    queries = q_start + tl.arange(0, Q_BLOCK)
    fours = k_start // 4 + tl.arange(0, K_BLOCK // 4)
    query, four = tl.broadcast(queries[:, None], fours[None, :])
    zero = tl.zeros_like(query)
    a, b, c, d = tl.philox(seed, query, four, zero + head, zero, PHILOX_ROUNDS)
    bits = tl.join(tl.join(a, c), tl.join(b, d))  # (Q_BLOCK, K_BLOCK / 4, 2, 2): a, b, c, d
    return tl.reshape(bits, (Q_BLOCK, K_BLOCK)) >= DROPOUT
