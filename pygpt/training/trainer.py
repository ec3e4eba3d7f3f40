"""The training loop: one step, and what happens between steps.

Everything a step depends on besides the weights is a function of the seed and the step's number:
its batch, its dropout, its learning rate. That is why a resumed run repeats nothing and differs in
nothing from one that was never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pygpt.config import TrainConfig
from pygpt.data import BatchSampler, TokenDataset
from pygpt.evaluation.loss import Evaluation, evaluate
from pygpt.model import GPT
from pygpt.planning.hardware import Peak
from pygpt.planning.memory import ways_out
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.training.offload import OffloadedUpdater
from pygpt.training.optimizer import Updater, learning_rate
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_READS = 0.5


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What is known of one step; the fields are those of ``metrics.jsonl``."""

    step: int
    """Steps done, this one included."""
    train_loss: float
    """Mean over the whole batch of the step, nats per token."""
    val_loss: float | None
    tokens: int
    """Trained on so far, over all starts of the run."""
    tokens_per_second: float
    lr: float
    grad_norm: float
    """Before clipping."""
    mfu: float
    """Share of the peak rate."""

    def fields(self) -> dict[str, Any]:
        """The line of ``metrics.jsonl``."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


class Observer(Protocol):
    """Is told what happens, to show it."""

    def on_step(self, report: StepReport) -> None: ...

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None: ...

    def on_checkpoint(self, path: Path) -> None: ...


@dataclasses.dataclass(frozen=True)
class _Launched:
    """A step that has been launched and whose figures have not been read yet."""

    step: int
    loss: Tensor
    grad_norm: Tensor
    lr: float


class _Staging:
    """Pinned memory for one batch on its way to a GPU."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.x, self.y = (torch.empty(shape, dtype=torch.int64, pin_memory=True) for _ in range(2))
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]


class Trainer:
    """Trains one model in one run directory.

    Args:
        config: resolved: `dtype` and `micro_batch` are no longer "auto".
        model: on the device to train on.
        train: split to train on.
        val: split to evaluate on.
        run: where metrics and checkpoints go.
        peak: the rate that MFU divides by.

    Raises:
        InputError: the training split is shorter than one window.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: GPT,
        train: TokenDataset,
        val: TokenDataset,
        run: Run,
        peak: Peak,
    ) -> None:
        assert config.micro_batch != "auto"
        assert config.dtype != "auto"
        self.config = config
        self.model = model
        self.run = run
        self.step = 0
        self.evaluation: Evaluation | None = None
        self._val = val
        self._train_checksum = train.checksum
        self._peak = peak
        self._device = model.wte.weight.device
        self._dtype = getattr(torch, config.dtype)
        self._micro_batch = config.micro_batch
        self._updater = (OffloadedUpdater if config.offload_optimizer else Updater)(model, config)
        self._loss: Callable[[Tensor, Tensor], Tensor] = (
            torch.compile(model.loss) if config.compile else model.loss
        )
        self._sampler = BatchSampler(
            train,
            config.batch_sequences(),
            config.block_size,
            seed=config.seed,
            sampling=config.sampling,
        )
        self._staging = self._make_staging()
        self._observer: Observer
        self._clock = 0.0

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it is damaged, or of another model, tokenizer or text.
        """
        updater = self._updater
        state = checkpoint.load_training(path, updater.weights, updater.adamw, self._val.tokenizer)
        if state.train_checksum not in (None, self._train_checksum):
            raise InputError(
                f"the train split of {self.config.data} is not the one that {path} was trained on: "
                "its checksum differs. Bring that back, or name it by --data; start another run "
                "for other text"
            )
        updater.publish()
        self.step = state.step

    def train(self, observer: Observer, should_stop: Callable[[], bool]) -> None:
        """Train to the last step, or until `should_stop` says so after a step; save there.

        Args:
            observer: is told of steps, evaluations and checkpoints.
            should_stop: asked after every step.

        Raises:
            InputError: a loss or gradient is no longer finite, or a checkpoint can't be written.
        """
        self._observer = observer
        self.model.train()
        self._clock = time.perf_counter()
        launched: list[_Launched] = []
        while self.step < self.config.max_steps:
            launched.append(self.launch_step())
            self.step += 1
            last = self.step == self.config.max_steps
            stopping = should_stop()
            evaluating = self.step % self.config.eval_interval == 0 or last
            saving = self.step % self.config.checkpoint_interval == 0 or last or stopping
            if evaluating or saving or self._should_read():
                # Looked at before anything is saved: no checkpoint of a broken model.
                self._between_steps(self._read(launched), evaluating, saving)
                launched = []
            if stopping:
                return

    def finish(self) -> GPT:
        """The trained model in fp32, on its device: there will be no further step."""
        self._updater.release()
        return self.model.eval()

    def launch_step(self) -> _Launched:
        """Run forward, backward and update of the next step; its figures stay on the device.

        Raises:
            InputError: out of memory with one sequence at a time.
        """
        lr = learning_rate(self.step, self.config)
        loss = self._gradients()
        norm = self._updater.step(lr)
        return _Launched(self.step + 1, loss, norm, lr)

    def _gradients(self) -> Tensor:
        """The next step's loss; its gradients are then the parameters'.

        Out of memory, it starts anew with smaller micro-batches: no weight has changed yet.
        """
        while True:
            try:
                return self._accumulate()
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # Out of the handler: the error holds the frames it left, and they hold tensors.
            self._halve_micro_batch(reason)

    def _accumulate(self) -> Tensor:
        torch.manual_seed(_dropout_seed(self.config.seed, self.step))
        x, y = self._batch(self.step)
        accumulation = self.config.accumulation(self._micro_batch)
        loss = torch.zeros((), device=self._device)
        shape = (accumulation, self._micro_batch, self.config.block_size)
        for inputs, targets in zip(x.view(shape), y.view(shape), strict=True):
            with self._autocast():
                # All micro-batches have equally many targets: the mean of means is the mean.
                part = self._loss(inputs, targets) / accumulation
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.detach()
        return loss

    def _halve_micro_batch(self, reason: str) -> None:
        self._updater.zero_grad()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        config, before = self.config, self._micro_batch
        sequences = config.batch_sequences()
        if before == 1:
            raise InputError(
                f"out of memory at step {self.step + 1} with one sequence at a time ({reason}); "
                f"{ways_out(config)}"
            )
        self._micro_batch = max(n for n in range(1, before // 2 + 1) if sequences % n == 0)
        self.config = dataclasses.replace(config, micro_batch=self._micro_batch)
        self.run.write_config(self.config)  # --resume begins with what fitted
        logger.warning(
            "out of memory at step %d with micro-batches of %d sequences (%s); from here on "
            "%d × %d: the batch of a step stays the same",
            self.step + 1,
            before,
            reason,
            sequences // self._micro_batch,
            self._micro_batch,
        )

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step on the device, each (sequences, block_size)."""
        if self._device.type != "cuda":
            return self._sampler.batch(step)
        staging = self._staging[step % 2]
        staging.copied.synchronize()
        self._sampler.batch(step, out=(staging.x, staging.y))
        x, y = (part.to(self._device, non_blocking=True) for part in (staging.x, staging.y))
        staging.copied.record()
        return x, y

    def _make_staging(self) -> list[_Staging]:
        """Two in turn: one is on its way to the device while the other is filled."""
        if self._device.type != "cuda":
            return []
        shape = (self.config.batch_sequences(), self.config.block_size)
        return [_Staging(shape) for _ in range(2)]

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    def _should_read(self) -> bool:
        """Reading figures waits for their steps: free on a CPU, a gap in a GPU's work otherwise."""
        waited = time.perf_counter() - self._clock
        return self._device.type != "cuda" or waited > SECONDS_BETWEEN_READS

    def _read(self, launched: list[_Launched]) -> list[StepReport]:
        """Wait for all launched steps and read their figures."""
        losses = [step.loss.item() for step in launched]
        now = time.perf_counter()
        rate = self.config.batch_tokens * len(launched) / (now - self._clock)
        self._clock = now
        reports = []
        for step, loss in zip(launched, losses, strict=True):
            norm = step.grad_norm.item()
            self._check_finite("the loss", loss, step.step)
            self._check_finite("the gradient's norm", norm, step.step)
            report = StepReport(
                step=step.step,
                train_loss=loss,
                val_loss=None,
                tokens=step.step * self.config.batch_tokens,
                tokens_per_second=rate,
                lr=step.lr,
                grad_norm=norm,
                mfu=rate * self.model.config.flops_per_token() / self._peak.flops,
            )
            reports.append(report)
        return reports

    def _between_steps(self, reports: list[StepReport], evaluating: bool, saving: bool) -> None:
        """Write metrics; evaluate and save if it is time to."""
        val_loss = self._evaluate().loss if evaluating else None
        if val_loss is not None:
            self._check_finite("the validation loss", val_loss, self.step)
        reports[-1] = dataclasses.replace(reports[-1], val_loss=val_loss)
        for report in reports:
            self.run.append_metrics(report.fields())
            self._observer.on_step(report)
        if saving:
            self._save(val_loss)
        self._clock = time.perf_counter()  # nothing of this is part of a step's time

    def _check_finite(self, name: str, value: float, step: int) -> None:
        if math.isfinite(value):
            return
        newest = self.run.newest_checkpoint()
        kept = f"the last good checkpoint is {newest}" if newest else "there was no checkpoint yet"
        raise InputError(
            f"{name} is {value} at step {step}: training stops; {kept}. Try a lower "
            f"--learning-rate (now {self.config.learning_rate:g}), a longer --warmup-steps or "
            "--dtype float32"
        )

    def _evaluate(self) -> Evaluation:
        self.evaluation = evaluate(
            self.model,
            self._val,
            block_size=self.config.block_size,
            max_tokens=self.config.eval_tokens,
            batch_size=self._micro_batch,
            autocast=self._autocast(),
        )
        self._observer.on_evaluation(self.step, self.evaluation)
        return self.evaluation

    def _save(self, val_loss: float | None) -> None:
        state = checkpoint.TrainerState(self.step, val_loss, self._train_checksum)
        path = checkpoint.save(
            self.run.checkpoints,
            self._updater.weights,
            self._updater.adamw,
            self._val.tokenizer,
            state,
        )
        with self.run.writing():
            checkpoint.prune(self.run.checkpoints, self.config.keep_checkpoints)
        self._observer.on_checkpoint(path)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """PyTorch has a type for it, a subclass; Triton, which loads kernels beside it, has none."""
    return isinstance(error, torch.OutOfMemoryError) or "CUDA]: out of memory" in str(error)


def _dropout_seed(seed: int, step: int) -> int:
    """64 bits from the 64 of the seed and the step: side by side, and above that stirred in."""
    golden = 0x9E3779B97F4A7C15  # odd, so that no two upper halves fall together
    return (seed << 32 | step) % 2**64 ^ (seed >> 32) * golden % 2**64
