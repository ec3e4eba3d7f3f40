"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and Trackio, each used as it is meant.

What they show is in ``metrics.jsonl`` too. So a tracker that fails costs nothing but a warning:
it is left out from then on. Where they send the figures is up to their own environment variables
(WANDB_MODE=offline, MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID …).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pygpt.config import TrainConfig
from pygpt.evaluation.loss import Evaluation
from pygpt.runs.run import Run
from pygpt.training.observer import StepReport

logger = logging.getLogger(__name__)

PROJECT = "pygpt"
"""Name of the project, or experiment, where the environment names none."""


class Tracker(Protocol):
    """One tracker, started."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures of a step."""

    def close(self) -> None:
        """Send what is left."""


@dataclasses.dataclass(frozen=True)
class Start:
    """What a tracker is started with."""

    path: Path
    """The run's directory."""
    config: Mapping[str, Any]
    first_step: int
    """The next step that will be logged: what was logged from it on is trained again."""

    @property
    def id(self) -> str:
        """The same in all starts of a run, and in no other run."""
        digest = hashlib.sha256(str(self.path.absolute()).encode()).hexdigest()
        return f"{self.path.name}-{digest[:8]}"


class TensorBoard:
    """Event files in the run's directory; ``tensorboard --logdir runs`` shows them."""

    def __init__(self, start: Start) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(start.path / "tensorboard", purge_step=start.first_step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb, which a resumed run goes on with."""

    def __init__(self, start: Start) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=start.path.name,
            id=start.id,
            resume="allow",
            dir=start.path,
            config=dict(start.config),
            settings=wandb.Settings(console="off"),  # the output is the progress bar's
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow for each start, tagged with the run's directory."""

    def __init__(self, start: Start) -> None:
        import mlflow
        from mlflow.entities import Param

        self._client = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        run = self._client.create_run(
            experiment, run_name=start.path.name, tags={"pygpt.run": str(start.path.absolute())}
        )
        self._id = run.info.run_id
        parameters = [Param(key, str(value)) for key, value in start.config.items()]
        self._client.log_batch(self._id, params=parameters)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=step, synchronous=False)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio:
    """A run of Trackio, kept on this machine; ``trackio show`` shows it."""

    def __init__(self, start: Start) -> None:
        import trackio

        self._run = trackio.init(
            project=PROJECT,
            name=start.path.name,
            resume="allow",
            config=dict(start.config),
            embed=False,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: Mapping[str, Callable[[Start], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


class Trackers:
    """The trackers of a run, as an observer of its training.

    Args:
        names: of trackers; None is TensorBoard where it is installed.
        run: the directory.
        config: shown beside the figures.
        first_step: the next step to be trained.
    """

    def __init__(
        self, names: tuple[str, ...] | None, run: Run, config: TrainConfig, first_step: int
    ) -> None:
        if names is None:
            names = ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
        self._names = names
        values = {
            name: str(value) if isinstance(value, (Path, tuple)) else value
            for name, value in dataclasses.asdict(config).items()
        }
        self._start = Start(run.path, values, first_step)
        self._running: dict[str, Tracker] = {}

    def __enter__(self) -> Trackers:
        for name in self._names:
            with self._leaving_out(name):
                self._running[name] = _TRACKERS[name](self._start)
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._running.items()):
            with self._leaving_out(name):
                tracker.close()

    def on_step(self, report: StepReport) -> None:
        """Record a step."""
        figures = {
            name: value for name, value in report.fields().items() if name not in ("step", "tokens")
        }
        for name, tracker in list(self._running.items()):
            with self._leaving_out(name):
                tracker.log(report.step, figures)

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Nothing: its loss is part of the step's report."""

    def on_checkpoint(self, path: Path) -> None:
        """Nothing: checkpoints stay where they are."""

    @contextlib.contextmanager
    def _leaving_out(self, name: str) -> Iterator[None]:
        """Go on without a tracker that fails, whatever it raises."""
        try:
            yield
        except ImportError as error:
            self._running.pop(name, None)
            logger.warning(
                "%s is not installed (%s): the run is not tracked there; pip install "
                '"pygpt-trainer[%s]"',
                name,
                error,
                name,
            )
        except Exception as error:
            self._running.pop(name, None)
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            logger.warning("%s failed (%s): the run goes on without it", name, reason)
