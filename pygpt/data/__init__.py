"""Datasets of token ids: the files, the windows drawn from them, and how they are written."""

from typing import TYPE_CHECKING

from pygpt.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from pygpt.data.dataset import TokenDataset
    from pygpt.data.sampler import BatchSampler

__all__ = ["BatchSampler", "TokenDataset"]

__getattr__, __dir__, _ = lazy_exports(
    __name__,
    {"TokenDataset": "pygpt.data.dataset", "BatchSampler": "pygpt.data.sampler"},
)
