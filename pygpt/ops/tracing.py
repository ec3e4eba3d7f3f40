"""What torch.compile should not trace into."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def constant_while_tracing(function: F) -> F:
    """Have torch.compile call `function` while it traces, and take the result as a constant.

    The same as `torch.compiler.assume_constant_result`, which imports torch._dynamo at once: more
    than half of the time of ``import pygpt.model``. Dynamo only looks for this attribute.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
