"""Registers an operator of ``torch.ops.pygpt`` so that calling it costs little.

`torch.library.custom_op` does the same and takes twice as long for a forward and a backward
(``python bench/bench_host_time.py``): its autograd is written for any operator. A step of a small
model on a fast GPU waits for that. Like there, torch.compile sees one opaque operator, on a GPU as
in Triton's interpreter. (`torch.library.triton_op` traces through the launch, which the interpreter
can't do on fake tensors.)
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])
Overload = torch._ops.OpOverload

_library = torch.library.Library("pygpt", "FRAGMENT")


def operator(name: str, device: str = "") -> Callable[[Callable[..., Any]], Overload]:
    """Decorator: the function, whose annotations say the schema, becomes ``torch.ops.pygpt.name``.

    It must not change its inputs nor return one of them.

    Args:
        name: of the operator.
        device: "CPU" or "CUDA" where it runs on that alone.
    """

    def register(function: Callable[..., Any]) -> Overload:
        _library.define(name + torch.library.infer_schema(function, mutates_args=()))
        _library.impl(name, function, device or "CompositeExplicitAutograd")
        overload: Overload = getattr(torch.ops.pygpt, name).default
        return overload

    return register


def fake(op: Overload) -> Callable[[F], F]:
    """Decorator: the function allocates what `op` would return, for torch.compile."""

    def register(function: F) -> F:
        torch.library.register_fake(op.name(), function, lib=_library)
        return function

    return register


def differentiable(
    op: Overload,
    backward: Callable[..., Any],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
) -> None:
    """Give `op` a gradient; both functions are as for `torch.library.register_autograd`.

    Args:
        op: made by `operator`.
        backward: of the context and the outputs' gradients, to the inputs' gradients.
        setup_context: of the context, the inputs and the outputs: keeps what `backward` needs.
    """
    defaults = [argument.default_value for argument in op._schema.arguments]

    def forward(ctx: Any, *given: Any) -> Any:
        inputs = (*given, *defaults[len(given) :])  # the dispatcher leaves defaults out
        outputs = _below_autograd(op, *inputs)
        setup_context(ctx, inputs, outputs)
        return outputs

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(f"{op._opname}_autograd", (torch.autograd.Function,), members)

    def differentiate(*inputs: Any) -> Any:
        if torch.is_grad_enabled():
            return function.apply(*inputs)  # type: ignore[attr-defined]
        return _below_autograd(op, *inputs)

    _library.impl(op._opname, differentiate, "Autograd")


def _below_autograd(op: Overload, *inputs: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*inputs)


def forbid_second_derivative(backward: Overload, name: str) -> None:
    """Make differentiating the operator `backward` an error that says what to do."""

    def raise_error(ctx: object, *gradients: Tensor) -> None:
        raise RuntimeError(
            f"{name}: the Triton kernel has no second derivative; take impl='eager' to "
            "differentiate twice"
        )

    differentiable(backward, raise_error, lambda ctx, inputs, outputs: None)
