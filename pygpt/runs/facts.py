"""What a model card says about the training of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from pygpt.runs.checkpoint import read_state
from pygpt.runs.run import Run


def training_facts(checkpoint: Path) -> dict[str, str]:
    """Data, steps, tokens, rate and losses, as text; {} for a model that no run of pygpt made.

    Raises:
        InputError: the run's files are damaged.
    """
    run = Run.of_checkpoint(checkpoint)
    if not run.started or not (checkpoint / "trainer.json").exists():
        return {}
    config, state = run.config(), read_state(checkpoint)
    lines = [line for line in run.read_metrics() if line["step"] == state.step]
    train_loss = lines[-1].get("train_loss") if lines else None
    facts = {
        "data": ", ".join(part.path.name for part in config.data_parts) or config.preset,
        "steps": f"{state.step:,} of {config.max_steps:,}",
        "tokens": f"{state.step * config.batch_tokens:,} ({config.batch_tokens:,} a step)",
        "learning rate": f"{config.learning_rate:g}, peak",
    }
    losses = {"train loss": train_loss, "validation loss": state.val_loss}
    return facts | {
        name: f"{loss:.4f} nats per token" for name, loss in losses.items() if loss is not None
    }
