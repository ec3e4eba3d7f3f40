"""Datasets of token ids: the files, the windows drawn from them, and how they are written."""

from pygpt.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {"TokenDataset": "pygpt.data.dataset", "BatchSampler": "pygpt.data.sampler"},
)
