"""What a training log holds, whatever its format: curves by step, facts, and what happened.

Memory is bounded: beyond `ROWS` records a table keeps the mean of 2, 4, 8 … consecutive records,
and the largest loss among them, so that a spike is still seen.
"""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from pygpt.utils.errors import InputError
from pygpt.utils.json_file import of_type

Floats = NDArray[np.float64]

ROWS = 2**16
"""Most rows of a table in memory."""

LARGEST = 2**53
"""Steps and facts beyond this are not numbers of a run; floats count exactly up to here."""

COLUMNS = ("loss", "peak", "lr", "grad_norm", "seconds", "tokens_per_second", "mfu", "tokens")
"""Of a table; `peak` is the largest loss of the records that a row stands for. A value that the log
lacks is NaN."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Records by step, steps strictly rising."""

    step: Floats
    columns: dict[str, Floats]
    records_per_row: int = 1

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    def has(self, name: str) -> bool:
        """Whether the log gives this column, at least in half of the rows."""
        return len(self) > 0 and bool(np.isfinite(self.columns[name]).mean() >= 0.5)

    def known(self, name: str) -> tuple[Floats, Floats]:
        """Steps and values of the rows that have this column."""
        values = self.columns[name]
        finite = np.isfinite(values)
        return self.step[finite], values[finite]


class Recorder:
    """Collects records in the order of the log, in bounded memory."""

    def __init__(self, rows: int = ROWS) -> None:
        self._rows = rows
        self._step = array("d")
        self._columns = {name: array("d") for name in COLUMNS}
        self._per_row = 1
        self._pending: list[tuple[float, dict[str, float]]] = []

    def __len__(self) -> int:
        return len(self._step) + len(self._pending)

    @property
    def last_step(self) -> float | None:
        """Of the records that were added and kept."""
        if self._pending:
            return self._pending[-1][0]
        return self._step[-1] if self._step else None

    def add(self, step: float, values: dict[str, float]) -> None:
        """Add the record of a step that is larger than `last_step`."""
        self._pending.append((step, values))
        if len(self._pending) >= self._per_row:
            self._flush()
            if len(self._step) >= self._rows:
                self._halve()

    def drop_from(self, step: float) -> None:
        """Forget the records of `step` and later ones: they are done again."""
        self._pending = [record for record in self._pending if record[0] < step]
        while self._step and self._step[-1] >= step:
            self._step.pop()
            for column in self._columns.values():
                column.pop()

    def table(self) -> Table:
        """What was added."""
        self._flush()
        return Table(
            np.array(self._step),
            {name: np.array(column) for name, column in self._columns.items()},
            self._per_row,
        )

    def _flush(self) -> None:
        if not self._pending:
            return
        self._step.append(self._pending[-1][0])
        for name, column in self._columns.items():
            source = "loss" if name == "peak" else name
            values = [record[source] for _, record in self._pending if source in record]
            values = [value for value in values if math.isfinite(value)]
            merge = max if name == "peak" else lambda of: sum(of) / len(of)
            column.append(merge(values) if values else math.nan)
        self._pending = []

    def _halve(self) -> None:
        """Merge neighbouring rows; the newest row stays alone where their number is odd."""
        self._step = array("d", _pairs(self._step, np.fmax))
        for name, column in self._columns.items():
            merge = np.fmax if name == "peak" else _mean
            self._columns[name] = array("d", _pairs(column, merge))
        self._per_row *= 2


def _pairs(values: array[float], merge: Any) -> list[float]:
    whole = len(values) // 2 * 2
    both = np.array(values)[:whole].reshape(-1, 2)
    return [*merge(both[:, 0], both[:, 1]).tolist(), *values[whole:]]


def _mean(a: Floats, b: Floats) -> Floats:
    """The mean of two, or the one that is a number."""
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, (a + b) / 2))


@dataclasses.dataclass
class Facts:
    """What is known of a run besides its curves; None is unknown, nothing is guessed.

    `sources` says where each came from: a flag, a file, or the log itself.
    """

    n_layer: int | None = None
    n_head: int | None = None
    n_embd: int | None = None
    block_size: int | None = None
    vocab_size: int | None = None
    bias: bool | None = None
    dropout: float | None = None
    batch_tokens: int | None = None
    micro_batch: int | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    min_lr: float | None = None
    warmup_steps: int | None = None
    lr_decay_steps: int | None = None
    schedule: str | None = None
    """"cosine", "linear", "wsd" (linear after a stable phase) or "constant"."""
    decay_from: int | None = None
    """Step at which wsd starts to decay."""
    n_params: int | None = None
    """As the log says it; a shape gives it exactly."""
    card: str | None = None
    """GPU."""
    preset: str | None = None
    corpus: str | None = None
    corpus_tokens: int | None = None
    """Tokens of the training split."""
    sources: dict[str, str] = dataclasses.field(default_factory=dict)

    def put(self, name: str, value: Any, source: str) -> None:
        """Set a fact, unless its value is None or can't be one: nothing is guessed from it."""
        try:
            value = of_type(name, value, _FACT_TYPES[name])
        except TypeError:
            return
        if value is None or (isinstance(value, (int, float)) and not 0 <= value <= LARGEST):
            return
        setattr(self, name, value)
        self.sources[name] = source

    def take(self, values: Mapping[str, Any], source: str) -> None:
        """Set the facts that a configuration has, except for "auto"."""
        names = {field.name for field in dataclasses.fields(self)} - {"sources", "card"}
        for name in names & values.keys():
            self.put(name, None if values[name] == "auto" else values[name], source)

    def known(self) -> dict[str, Any]:
        """The facts that are not None."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {k: v for k, v in values.items() if v is not None and k != "sources"}


_FACT_TYPES = get_type_hints(Facts)


@dataclasses.dataclass(frozen=True)
class Restart:
    """The log goes back: steps after `to` were done once more."""

    at: int
    """The last step before."""
    to: int
    """The first step after."""


@dataclasses.dataclass
class RunLog:
    """A run as its log tells it."""

    name: str
    path: Path
    format: str
    train: Table
    """Training loss; each record is one step, or the mean of those since the record before."""
    val: Table
    """Validation loss, nats per token."""
    facts: Facts
    restarts: list[Restart]
    duplicates: int
    """Records of a step that another record of the same step followed."""
    not_finite: list[int]
    """The first steps whose loss is NaN or infinite."""
    skipped: int
    """Lines that begin like a record and can't be read."""
    ignored: tuple[str, ...] = ()
    """Columns that are not used."""
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    """Benchmarks that the log holds, such as HellaSwag's accuracy."""
    val_bits_per_byte: dict[int, float] = dataclasses.field(default_factory=dict)
    """Where the log has validation in bits per byte and not in nats per token."""
    comparison: dict[str, Any] | None = None
    """The result of `eval --compare`, where it is in the run's directory."""
    running: bool | None = None
    """Whether a process trains in the run's directory; None where it can't be told."""

    @property
    def last_step(self) -> int:
        """The last step with a loss."""
        ends = [table.step[-1] for table in (self.train, self.val) if len(table)]
        return int(max(ends))

    @property
    def main(self) -> Table:
        """The curve that findings are about: validation where it has at least five points."""
        return self.val if len(self.val) >= 5 or not len(self.train) else self.train

    @property
    def main_is_validation(self) -> bool:
        """Whether `main` is the validation loss."""
        return self.main is self.val

    @property
    def final_loss(self) -> float:
        """The last validation loss, or the mean of the last 2 % of the training losses."""
        if len(self.val):
            return float(self.val["loss"][-1])
        last = max(1, len(self.train) // 50)
        return float(np.mean(self.train["loss"][-last:]))

    @property
    def tokens(self) -> int | None:
        """Tokens trained on."""
        _, tokens = self.train.known("tokens")
        if len(tokens):
            return int(tokens[-1])
        batch = self.facts.batch_tokens
        return self.last_step * batch if batch else None

    @property
    def finished(self) -> bool | None:
        """Whether the last step is that of the configuration; None where that is unknown."""
        planned = self.facts.max_steps
        return None if planned is None else self.last_step >= planned - 1

    @property
    def may_go_on(self) -> bool:
        """Whether more steps may come."""
        return not self.finished and self.running is not False


class LogBuilder:
    """What a reader fills, record by record."""

    def __init__(self, path: Path, format_name: str) -> None:
        self.path = path
        self.format = format_name
        self.facts = Facts()
        self.scores: dict[str, float] = {}
        self.val_bits_per_byte: dict[int, float] = {}
        self.comparison: dict[str, Any] | None = None
        self.running: bool | None = None
        self.ignored: tuple[str, ...] = ()
        self.skipped = 0
        self._train, self._val = Recorder(), Recorder()
        self._restarts: list[Restart] = []
        self._duplicates = 0
        self._not_finite: list[int] = []

    def train(self, step: float, loss: float, **columns: float) -> None:
        """Add a record of the training loss and what goes with it."""
        self._add(self._train, step, {"loss": loss, **columns})

    def validation(self, step: float, loss: float) -> None:
        """Add a record of the validation loss."""
        self._add(self._val, step, {"loss": loss})

    def fact(self, name: str, value: Any, source: str) -> None:
        """Set a fact, unless its value is None."""
        self.facts.put(name, value, source)

    def build(self, name: str) -> RunLog:
        """The log, at its end.

        Raises:
            InputError: it has no loss, or steps in no order.
        """
        self._check(name)
        return RunLog(
            name=name,
            path=self.path,
            format=self.format,
            train=self._train.table(),
            val=self._val.table(),
            facts=self.facts,
            restarts=self._restarts,
            duplicates=self._duplicates,
            not_finite=self._not_finite,
            skipped=self.skipped,
            ignored=self.ignored,
            scores=self.scores,
            val_bits_per_byte=self.val_bits_per_byte,
            comparison=self.comparison,
            running=self.running,
        )

    def _check(self, name: str) -> None:
        records = len(self._train) + len(self._val)
        if len(self._restarts) > max(20, records // 50):
            raise InputError(
                f"{name}: the steps go back {len(self._restarts):,} times, so this is not the log "
                "of one run; if it holds several runs, put each into a file of its own; if the "
                "lines are in another order, sort them by step"
            )
        if not records:
            what = (
                "its losses are all NaN or infinite" if self._not_finite else "no step has a loss"
            )
            raise InputError(
                f"{name}: read as {self.format}, and {what}; see docs/report.md for the formats"
            )

    def _add(self, recorder: Recorder, step: float, values: dict[str, float]) -> None:
        if not 0 <= step <= LARGEST:  # False for NaN
            self.skipped += 1
            return
        if not math.isfinite(values["loss"]):
            if len(self._not_finite) < 1000:
                self._not_finite.append(int(step))
            return
        last = recorder.last_step
        if last is not None and step <= last:
            self._go_back(recorder, last, step)
        recorder.add(step, values)

    def _go_back(self, recorder: Recorder, last: float, step: float) -> None:
        """Steps from `step` on are done again: forget both curves there."""
        if step == last:
            self._duplicates += 1
            recorder.drop_from(step)
            return
        ends = [end for each in (self._train, self._val) if (end := each.last_step) is not None]
        self._restarts.append(Restart(int(max(ends)), int(step)))
        for each in (self._train, self._val):
            each.drop_from(step)
