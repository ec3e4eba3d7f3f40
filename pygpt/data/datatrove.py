"""The last step of a datatrove pipeline: its documents as datasets of shards, one for each task.

datatrove (``pip install datatrove``) reads, filters and deduplicates text on many machines, with
executors for processes, Slurm and Ray. Example::

    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from pygpt.data.datatrove import PrepareShards

    pipeline = [ParquetReader("fineweb/"), PrepareShards("data/fineweb")]
    LocalPipelineExecutor(pipeline, tasks=8, logging_dir="logs").run()

Then ``python -m pygpt.prepare merge data/fineweb/part-* --out data/fineweb-gpt2`` joins them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from pygpt.data.corpora.parts import Part, Records
from pygpt.data.manifest import FILE_NAME
from pygpt.data.selection import Limits
from pygpt.data.writer import prepare

logger = logging.getLogger(__name__)

LIMITS = Limits(shard_tokens=100_000_000, val_tokens=100_000)


class _Documents(Records):
    """What one task gets from the steps before."""

    def __init__(self, documents: Iterable[Document], rank: int, world_size: int) -> None:
        self._documents = documents
        self._name = f"datatrove task {rank} of {world_size}"

    @property
    def source(self) -> str:
        """See `Records`."""
        return self._name

    def parts(self) -> Sequence[Part]:
        """See `Records`. The part can be read once."""
        return [Part(self._name, 0, lambda: (document.text for document in self._documents))]


class PrepareShards(PipelineStep):  # type: ignore[misc]
    """Writes the documents of task r to the dataset ``OUT/part-r``; none go to a later step.

    A task that was killed and is run again goes on behind its last full shard, if the steps before
    give the same documents in the same order. A task without documents writes nothing.

    Args:
        out: the folder of the datasets.
        tokenizer: see `pygpt.data.writer.prepare`.
        val_fraction: see `pygpt.data.writer.prepare`.
        seed: see `pygpt.data.writer.prepare`.
        workers: threads of one task; 1, since datatrove runs a task for each core.
        limits: for one task: a val split of 10 million tokens in all over 100 tasks has
            ``val_tokens=100_000``.
    """

    name = "pygpt shards"
    type = "Tokenizer"

    def __init__(
        self,
        out: str | Path,
        tokenizer: str = "gpt2",
        *,
        val_fraction: float = 0.05,
        seed: int = 0,
        workers: int = 1,
        limits: Limits = LIMITS,
    ) -> None:
        super().__init__()
        self._out, self._tokenizer = Path(out), tokenizer
        self._val_fraction, self._seed = val_fraction, seed
        self._workers, self._limits = workers, limits

    def run(
        self, data: Iterable[Document] | None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Document]:
        """Write one task's dataset; called by datatrove.

        Raises:
            InputError: see `pygpt.data.writer.prepare`.
        """
        documents = iter(data or ())
        out = self._out / f"part-{rank:05}"
        first = next(documents, None)
        if first is None:
            logger.warning("task %d of %d has no documents: %s is not made", rank, world_size, out)
        elif (out / FILE_NAME).exists():
            logger.info("%s is there already", out)
        else:
            self._prepare(itertools.chain([first], documents), out, rank, world_size)
        yield from ()

    def _prepare(
        self, documents: Iterable[Document], out: Path, rank: int, world_size: int
    ) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        info = prepare(
            _Documents(documents, rank, world_size),
            out,
            self._tokenizer,
            val_fraction=self._val_fraction,
            seed=self._seed,
            workers=self._workers,
            limits=self._limits,
        )
        for name, split in info.splits.items():
            self.stat_update(f"{name}_tokens", value=split.tokens)
            self.stat_update(f"{name}_documents", value=split.documents)
