"""Every operation that the model calls; one file each, with its contract and readable reference.

An op has up to three implementations behind one signature:

- ``eager``: plain PyTorch; the reference that the tests compare against;
- ``triton``: a kernel of ``pygpt.kernels``, on a GPU;
- ``native``: C++ of ``pygpt._C``, on a CPU.

``impl="auto"`` takes the fastest one for the tensor's device; see `pygpt.ops.dispatch`.

Sizes in the docstrings: B sequences, T positions, C = n_embd channels, V vocabulary, M = B·T.

The functions have the names of their files: import other names of a file by
``from pygpt.ops.gelu import …``, since ``pygpt.ops.gelu`` is the function.
"""

from pygpt.ops.attention import attention, decode_attention
from pygpt.ops.embedding import embedding
from pygpt.ops.gelu import gelu
from pygpt.ops.layer_norm import add_layer_norm, layer_norm
from pygpt.ops.linear_cross_entropy import linear_cross_entropy

__all__ = [
    "add_layer_norm",
    "attention",
    "decode_attention",
    "embedding",
    "gelu",
    "layer_norm",
    "linear_cross_entropy",
]
