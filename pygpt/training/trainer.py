"""The training loop: a step, and what happens between steps: metrics, evaluation, checkpoints.

Batch, dropout and learning rate of a step are functions of the seed and the step's number. So a
resumed run computes the same bits as one that was never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pygpt.data.mixture import Split
from pygpt.evaluation.loss import Evaluation
from pygpt.evaluation.mixture import MixtureEvaluation, evaluate_split
from pygpt.hub import huggingface
from pygpt.model import GPT
from pygpt.planning.memory import ways_out
from pygpt.planning.resolve import ResolvedConfig
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.training import recovery
from pygpt.training.average import WeightAverage
from pygpt.training.batches import Batches
from pygpt.training.figures import Figures
from pygpt.training.muon import MuonWithAdamW
from pygpt.training.observer import LaunchedStep, Observer, StepReport
from pygpt.training.offload import build_updater
from pygpt.training.parallel import parallelize
from pygpt.training.ranks import Ranks
from pygpt.training.recovery import Failure, Vote
from pygpt.training.saver import Saver
from pygpt.training.schedule import learning_rate, sequence_length
from pygpt.training.workers import Workers
from pygpt.utils.errors import InputError

logger = logging.getLogger(__name__)


class Trainer:
    """Trains one model in one run directory.

    Args:
        run: resolved: device, dtype, implementations, micro-batch.
        model: on the device to train on.
        train: split to train on.
        val: split to evaluate on.
        directory: of the run, for its metrics and checkpoints.
        ranks: that train together; None is this process alone.

    Attributes:
        step: steps done.
        evaluation: the newest evaluation.

    Raises:
        InputError: the training split is shorter than one window.
    """

    def __init__(
        self,
        run: ResolvedConfig,
        model: GPT,
        train: Split,
        val: Split,
        directory: Run,
        ranks: Ranks | None = None,
    ) -> None:
        self.run = run
        self.config = run.config
        self.model = model
        self.directory = directory
        self.step = 0
        self.evaluation: Evaluation | None = None
        self._train = train
        self._val = val
        self._ranks = ranks or Ranks()
        self._parallel = parallelize(
            model, run.parallel, run.device, dtype=run.dtype, compiled=run.compile
        )
        self._workers = Workers(model, run)
        self._updater = build_updater(model, self.config)
        if isinstance(self._updater.optimizer, MuonWithAdamW) and run.workers > 1:
            self._updater.optimizer.orthogonalize = self._workers.orthogonalize
        decay = self.config.ema_decay
        self._average = WeightAverage(self._updater.weights, decay) if decay else None
        self._batches = Batches(train, self.config, run.device, self._ranks)
        self._saver = Saver(
            directory, self.config.keep_checkpoints, self._ranks, slices=run.parallel == "fsdp"
        )
        self._figures = Figures(run, self._newest_checkpoint)
        self._rehearsed = 0  # micro-batch of the last rehearsal
        self._observer: Observer

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            InputError: it is damaged, or of another model, tokenizer or training split.
        """
        updater = self._updater
        state = checkpoint.load_training(
            path, updater.weights, updater.optimizer, self._val.tokenizer
        )
        if state.train_checksum not in (None, self._train.checksum):
            raise InputError(
                f"the train split of {', '.join(self.config.data)} is not the one that {path} was "
                "trained on: its checksum differs. Restore that data, or give its directory with "
                "--data; to train on other text, start another run"
            )
        updater.sync_to_model()
        updater.restore_scaling(state.scaling)
        if self._average:
            self._average.restore(path, updater.weights)
        self.step, self._figures.skipped = state.step, state.skipped_steps

    def train_step(self) -> LaunchedStep:
        """Run the next step. Recovers from out-of-memory by halving the micro-batch.

        The figures stay on the device, so that nothing here waits for a GPU.

        Raises:
            InputError: out of memory with one sequence at a time.
        """
        with self._workers.step():
            return self._train_step()

    def _train_step(self) -> LaunchedStep:
        lr = learning_rate(self.step, self.config)
        loss = recovery.retry(
            self._backward, self._recover, self._ranks, agreed=self._parallel.recovers
        )
        grad_norm = self._updater.clip_gradients(self.config.grad_clip)
        self._updater.step(lr)
        self._updater.zero_grad()
        self.step += 1
        if self._average:
            self._average.update(self._updater.weights, self.step)
        return LaunchedStep(self.step, loss, grad_norm, lr)

    def _backward(self, vote: Vote) -> Tensor:
        """Accumulate the gradients of the step's batch; return its mean loss, a scalar."""
        is_new = self.run.accumulation == 1 and self._rehearsed != self.run.micro_batch
        if self._parallel.rehearses and is_new:
            # No rank waits for another one here, so that all can recover from out-of-memory.
            self._accumulate(vote, synchronise=False)
            vote.succeeded()
            vote.reopen()
            self._updater.zero_grad()
            self._rehearsed = self.run.micro_batch
        return self._ranks.mean(self._accumulate(vote))

    def _accumulate(self, vote: Vote, *, synchronise: bool = True) -> Tensor:
        """Forward and backward of all micro-batches; the mean loss of this rank's."""
        torch.manual_seed(_dropout_seed(self.config.seed, self.step, self._ranks.rank))
        x, y = self._batches.batch(self.step)
        n, accumulation = self.run.micro_batch, self.run.accumulation
        length = sequence_length(self.step, self.config)
        divisors = self._batches.divisors(self.step, n)
        parts = zip(torch.split(x, n), torch.split(y, n), divisors, strict=True)
        micro_batches = ((a.view(-1, length), b.view(-1, length), c) for a, b, c in parts)
        total = torch.zeros((), device=self.run.device)
        self._workers.start(x, y, divisors, length)
        for i, (inputs, targets, divisor) in enumerate(micro_batches):
            last = i + 1 == accumulation and synchronise
            if last:
                vote.succeeded()  # from here on the ranks wait for one another
            loss = self._workers.collect(i)
            if loss is None:
                with self._parallel.micro_batch(last):
                    with self._autocast():
                        loss = self._parallel.loss(inputs, targets) / divisor
                    self._updater.backward(loss)
            total += loss.detach()
        return total

    def train(self, observer: Observer, should_stop: Callable[[], bool]) -> None:
        """Train to the last step, or until `should_stop()` is true after a step; then save.

        Args:
            observer: is called with steps, evaluations and checkpoints.
            should_stop: is called after every step.

        Raises:
            InputError: a loss or gradient is no longer finite, or a checkpoint can't be written.
        """
        self._observer = observer
        self.model.train()
        try:
            self._train_steps(should_stop)
            self._saver.wait()
            self._announce_checkpoints()
        finally:
            self._workers.close()
            self._saver.close()

    def _train_steps(self, should_stop: Callable[[], bool]) -> None:
        self._figures.restart_clock()
        launched: list[LaunchedStep] = []
        while self.step < self.config.max_steps:
            launched.append(self.train_step())
            last = self.step == self.config.max_steps
            stopping = self._ranks.any(should_stop())
            evaluating = self.step % self.config.eval_interval == 0 or last
            saving = self.step % self.config.checkpoint_interval == 0 or last or stopping
            if evaluating or saving or self._figures.are_due():
                # Read before anything is saved: a diverged model gets no checkpoint.
                reports = self._figures.read(launched, self._updater.scaling)
                self._between_steps(reports, evaluating, saving)
                launched = []
            self._announce_checkpoints()
            if stopping:
                return

    def finish(self) -> GPT:
        """The trained model in fp32, on its device, in eval mode. No step can follow.

        Where the ranks hold slices of it, rank 0 reads the newest checkpoint.
        """
        self._updater.release()
        newest = self.directory.newest_checkpoint()
        if self.run.parallel == "fsdp" and newest:
            self.model, _ = huggingface.load(newest, self.run.device, impl=str(self.run.impl))
        return self.model.eval()

    def _recover(self, failure: Failure, reason: str) -> None:
        """Change what the step failed of. No weight has changed so far."""
        self._updater.zero_grad()
        if failure is Failure.MEMORY:
            self._halve_micro_batch(reason)
        else:
            self._stop_compiling(reason)
        self.config = self.run.config
        if self._ranks.is_main or not self._parallel.recovers:
            self.directory.write_config(self.config)  # --resume starts with what works
        if not self._parallel.recovers:
            raise InputError(
                "the other ranks wait for slices of this one, so that the run ends here; the "
                "change is stored with it, and --resume, or torchrun --max-restarts, goes on"
            )

    def _stop_compiling(self, reason: str) -> None:
        if not self.run.compile_is_auto:
            raise InputError(
                f"torch.compile failed ({reason}); give --compile False to train without it, or "
                "TORCHINDUCTOR_CACHE_DIR=DIR if another process uses the same cache"
            )
        logger.warning("torch.compile failed (%s): training goes on without it", reason)
        self._parallel.stop_compiling()
        self.run = self.run.without_compile()

    def _halve_micro_batch(self, reason: str) -> None:
        if self.run.device.type == "cuda":
            torch.cuda.empty_cache()
        before, sequences = self.run.micro_batch, self.run.rank_sequences
        if before == 1:
            raise InputError(
                f"out of memory at step {self.step + 1} with one sequence at a time ({reason}); "
                f"{ways_out(self.config)}"
            )
        after = recovery.smaller_micro_batch(sequences, before)
        self.run = self.run.with_micro_batch(after)
        logger.warning(
            "out of memory at step %d with micro-batches of %d sequences (%s); from here on "
            "%d × %d: the batch of a step stays the same",
            self.step + 1,
            before,
            reason,
            sequences // after,
            after,
        )

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.run.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.run.device.type, self.run.dtype)

    def _between_steps(self, reports: list[StepReport], evaluating: bool, saving: bool) -> None:
        """Write metrics; evaluate and save where due."""
        val_loss = None
        if evaluating:
            evaluation = self._evaluate()
            val_loss = evaluation.loss
            self._figures.check_finite("the validation loss", val_loss, self.step)
            parts = evaluation.parts if isinstance(evaluation, MixtureEvaluation) else {}
            losses = {name: part.loss for name, part in parts.items()}
            reports[-1] = dataclasses.replace(reports[-1], val_loss=val_loss, val_losses=losses)
        for report in reports:
            if self._ranks.is_main:
                self.directory.append_metrics(report.fields())
            self._observer.on_step(report)
        if saving:
            self._save(val_loss)
        self._figures.restart_clock()  # evaluating and saving is not part of a step's time

    def _evaluate(self) -> Evaluation:
        self.evaluation = evaluate_split(
            self.model,
            self._val,
            block_size=self.config.block_size,
            max_tokens=self.config.eval_tokens,
            batch_size=self.run.micro_batch,
            autocast=self._autocast(),
            ranks=self._ranks,
        )
        self._observer.on_evaluation(self.step, self.evaluation)
        return self.evaluation

    def _save(self, val_loss: float | None) -> None:
        state = checkpoint.TrainerState(
            self.step,
            val_loss,
            self._train.checksum,
            self._updater.scaling,
            self._figures.skipped,
        )
        content = checkpoint.content(
            self._updater.weights,
            self._updater.optimizer,
            self._val.tokenizer,
            state,
            average=self._average.model if self._average else None,
        )
        self._saver.save(content)

    def _newest_checkpoint(self) -> Path | None:
        """Also the one that is being written."""
        self._saver.wait()
        return self.directory.newest_checkpoint()

    def _announce_checkpoints(self) -> None:
        for path in self._saver.written():
            self._observer.on_checkpoint(path)


def _dropout_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 64-bit seed for each seed (64 bits), step (32 bits) and rank.

    Below 2³² it is ``seed << 32 | step``. The upper half of a larger seed is multiplied by an odd
    number, which keeps different halves different modulo 2⁶⁴, and XORed; so is the rank.
    """
    golden = 0x9E3779B97F4A7C15
    upper = ((seed >> 32) * golden ^ rank * 0xBF58476D1CE4E5B9) % 2**64
    return (seed << 32 | step) % 2**64 ^ upper
