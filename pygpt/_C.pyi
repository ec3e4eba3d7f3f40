"""Types of the compiled core; what its functions mean is in csrc/*.hpp."""

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
    level: str = "",
) -> None: ...
def accumulate(*, sum: int, addend: int, size: int, threads: int, level: str = "") -> None: ...
