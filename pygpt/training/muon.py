"""Muon for the matrices of the blocks, AdamW for embeddings, norms and biases.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a
matrix by the nearest semi-orthogonal one, computed by Newton–Schulz iterations. The size of an
update is scaled so that its RMS is AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2): both
optimizers then want learning rates and weight decays of the same magnitude.

Two things are added to `torch.optim.Muon`: q, k and v, which GPT-2 holds in one matrix, are
orthogonalised separately, and matrices of one shape go through Newton–Schulz in one batch.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.adamw import adamw

from pygpt.config import TrainConfig
from pygpt.model import GPT
from pygpt.planning.memory import MUON_BATCH_ELEMENTS

STEPS = 5
"""Newton–Schulz iterations."""

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al.: steepest at 0, singular values ≈ 0.7–1.2
_EPS = 1e-7
_RMS_OF_ADAMW = 0.2  # Liu et al., section 2.2


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon over the 2-D weights of a model's blocks, AdamW over all other parameters.

    Args:
        model: its parameters are updated.
        config: the run. `weight_decay` is that of the matrices; other parameters have none.

    State of a parameter: ``momentum_buffer`` of a matrix, else AdamW's ``step``, ``exp_avg`` and
    ``exp_avg_sq``. It is allocated here, not in the first step.

    Attributes:
        orthogonalize: a batch of matrices (N, rows, columns) → what `newton_schulz` makes of it.
    """

    def __init__(self, model: GPT, config: TrainConfig) -> None:
        named = dict(model.named_parameters())
        matrices = {name: p for name, p in named.items() if is_muon_matrix(name, p)}
        others = [p for name, p in named.items() if name not in matrices]
        fused = [p for name, p in matrices.items() if name.endswith("c_attn.weight")]
        single = [p for name, p in matrices.items() if not name.endswith("c_attn.weight")]
        muon = {"momentum": config.muon_momentum, "weight_decay": config.weight_decay}
        super().__init__(
            [
                {"params": fused, "matrices_each": 3, "lr_scale": config.muon_lr_scale, **muon},
                {"params": single, "matrices_each": 1, "lr_scale": config.muon_lr_scale, **muon},
                {"params": others, "matrices_each": 0, "betas": (config.beta1, config.beta2)},
            ],
            {"lr": config.learning_rate, "lr_scale": 1.0},
        )
        self.orthogonalize: Callable[[Tensor], Tensor] = newton_schulz
        self._dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
        for p in matrices.values():
            self.state[p] = {"momentum_buffer": torch.zeros_like(p)}
        for p in others:
            self.state[p] = {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        self._step_matrices([g for g in self.param_groups if g["matrices_each"]])
        for group in self.param_groups:
            if not group["matrices_each"]:
                self._step_adamw(group)

    def _step_matrices(self, groups: list[dict[str, Any]]) -> None:
        jobs: defaultdict[tuple[int, ...], list[_Matrix]] = defaultdict(list)
        for group in groups:
            for p in group["params"]:
                if p.grad is not None:
                    for matrix in _matrices_of(p, self.state[p]["momentum_buffer"], group):
                        jobs[tuple(sorted(matrix.shape))].append(matrix)
        for shape, same in jobs.items():
            for batch in _batches(same, shape):
                self._update(batch)

    def _update(self, batch: list[_Matrix]) -> None:
        """Step matrices that are of one shape, or its transpose."""
        updates = []
        for matrix in batch:
            momentum = matrix.group["momentum"]
            matrix.momentum.lerp_(matrix.gradient, 1 - momentum)
            nesterov = matrix.padded(matrix.gradient.lerp(matrix.momentum, momentum))
            updates.append(_wide(nesterov).to(self._dtype))
        stacked = torch.stack(updates)
        if batch[0].mesh is not None:
            # Every rank adds its rows to zeros: the sum is exact, and slices need not be equal.
            dist.all_reduce(stacked, group=batch[0].mesh.get_group())
        orthogonal = self.orthogonalize(stacked)
        for matrix, update in zip(batch, orthogonal, strict=True):
            lr, weight = matrix.group["lr"] * matrix.group["lr_scale"], matrix.weight
            is_tall = matrix.shape[0] > matrix.shape[1]
            weight.mul_(1 - lr * matrix.group["weight_decay"])
            weight.add_(
                matrix.own(update.T if is_tall else update),
                alpha=-lr * _RMS_OF_ADAMW * max(matrix.shape) ** 0.5,
            )

    def _step_adamw(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        states = [self.state[p] for p in params]
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [p.grad for p in params],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"] * group["lr_scale"],
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


def is_muon_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon, not AdamW, updates a parameter: the 2-D weights of the blocks."""
    return name.startswith("h.") and parameter.dim() == 2


def newton_schulz(matrices: Tensor) -> Tensor:
    """Push all singular values of a batch of matrices towards 1.

    Args:
        matrices: (N, rows, columns), with rows ≤ columns for speed.

    Returns:
        (N, rows, columns), of the same dtype; singular values between about 0.7 and 1.2.
    """
    a, b, c = _COEFFICIENTS
    # Singular values are at most the Frobenius norm.
    x: Tensor = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp_min(_EPS)
    for _ in range(STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


class _Matrix:
    """One matrix to orthogonalise: a parameter, or q, k or v of one.

    Where ranks hold slices of the parameter (FSDP), weight, gradient and momentum are this rank's
    rows of the matrix, and there may be none. All ranks orthogonalise all matrices then.

    Args:
        weight: rows of the weight, (rows, columns).
        gradient: of these rows.
        momentum: of these rows.
        group: of the optimizer.
        shape: of the whole matrix.
        first: where in the matrix the rows begin.
        mesh: of the ranks that hold the rows; None where the rows are the whole matrix.
    """

    def __init__(
        self,
        weight: Tensor,
        gradient: Tensor,
        momentum: Tensor,
        group: dict[str, Any],
        shape: torch.Size,
        first: int = 0,
        mesh: DeviceMesh | None = None,
    ) -> None:
        self.weight = weight
        self.gradient = gradient
        self.momentum = momentum
        self.group = group
        self.shape = shape
        self.mesh = mesh
        self._first = first

    def padded(self, rows: Tensor) -> Tensor:
        """A whole matrix with the rows of this rank, and zeros where other ranks have rows."""
        if self.mesh is None:
            return rows
        matrix = rows.new_zeros(self.shape)
        self.own(matrix).copy_(rows)
        return matrix

    def own(self, matrix: Tensor) -> Tensor:
        """The rows of a whole matrix that this rank has."""
        return matrix[self._first : self._first + len(self.weight)]


def _matrices_of(p: Tensor, momentum: Tensor, group: dict[str, Any]) -> list[_Matrix]:
    assert p.grad is not None
    if hasattr(p, "device_mesh"):  # a DTensor, which FSDP makes
        return _matrices_of_slice(p, momentum, group)
    n = group["matrices_each"]
    shape = torch.Size((p.size(0) // n, p.size(1)))
    parts = zip(p.chunk(n), p.grad.chunk(n), momentum.chunk(n), strict=True)
    return [_Matrix(*tensors, group, shape) for tensors in parts]


def _matrices_of_slice(p: Any, momentum: Any, group: dict[str, Any]) -> list[_Matrix]:
    """As `_matrices_of`, of a `DTensor`: the rows that this rank has of each matrix."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    n = group["matrices_each"]
    shape = torch.Size((p.size(0) // n, p.size(1)))
    _, (start, _) = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    local = [tensor.to_local() for tensor in (p, p.grad, momentum)]
    matrices = []
    for top in range(0, p.size(0), shape[0]):
        first = min(max(start - top, 0), shape[0])
        last = min(max(start + len(local[0]) - top, 0), shape[0])
        rows = slice(top + first - start, top + last - start) if first < last else slice(0, 0)
        weight, gradient, buffer = (tensor[rows] for tensor in local)
        matrices.append(_Matrix(weight, gradient, buffer, group, shape, first, p.device_mesh))
    return matrices


def _wide(matrix: Tensor) -> Tensor:
    return matrix.T if matrix.size(0) > matrix.size(1) else matrix


def _batches(matrices: list[_Matrix], shape: Iterable[int]) -> Iterable[list[_Matrix]]:
    size = max(1, MUON_BATCH_ELEMENTS // torch.Size(shape).numel())
    rest = iter(matrices)
    while batch := list(itertools.islice(rest, size)):
        yield batch
