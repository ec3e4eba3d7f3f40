"""Names that other trainers give to their options, and what to write here instead."""

from __future__ import annotations

# Fields of ours stand in braces; docs/from-nanogpt.md has the whole table for nanoGPT.
_NANOGPT = {
    "out_dir": "{out}",
    "dataset": "{data}, a path",
    "batch_size": "{micro_batch}, and the batch of a step is {batch_tokens}",
    "gradient_accumulation_steps": "what follows from {batch_tokens} and {micro_batch}",
    "max_iters": "{max_steps}",
    "warmup_iters": "{warmup_steps}",
    "lr_decay_iters": "{lr_decay_steps}",
    "decay_lr": "{min_lr} equal to {learning_rate}",
    "eval_iters": "{eval_tokens}",
    "eval_only": "python -m pygpt.eval RUN",
    "always_save_checkpoint": "{checkpoint_interval} and {keep_checkpoints}",
    "wandb_log": "{track}, as wandb",
    "wandb_project": "{track}, as wandb; the environment variable WANDB_PROJECT names the project",
    "backend": "nothing: nccl between GPUs and gloo between CPUs; see docs/many-gpus.md",
}
_NANOCHAT = {
    "depth": "{n_layer}",
    "max_seq_len": "{block_size}",
    "device_batch_size": "{micro_batch}",
    "total_batch_size": "{batch_tokens}",
    "num_iterations": "{max_steps}",
    "embedding_lr": "{learning_rate}",
    "matrix_lr": "{learning_rate}",
    "eval_every": "{eval_interval}",
    "sample_every": "python -m pygpt.sample RUN",
    "model_tag": "{out}",
}
_LITGPT = {
    "global_batch_size": "{batch_tokens}, in tokens",
    "micro_batch_size": "{micro_batch}",
    "max_tokens": "{max_steps} times {batch_tokens}",
    "max_seq_length": "{block_size}",
    "lr_warmup_steps": "{warmup_steps}",
    "max_norm": "{grad_clip}",
    "save_interval": "{checkpoint_interval}",
    "out_directory": "{out}",
    "precision": "{dtype}",
}
_INIT_FROM_OF_NANOGPT = {
    "resume": "here it is --resume",
    "scratch": "here it is the default: leave it out",
}
_SAMPLE_OF_NANOGPT = {
    "start": "--prompt; for FILE:PATH, --prompts PATH",
    "out_dir": "the run, without a flag: python -m pygpt.sample RUN",
    "init_from": "the model, without a flag: python -m pygpt.sample gpt2",
    "compile": "nothing: leave it out",
}
_TABLES = {"nanoGPT": _NANOGPT, "nanochat": _NANOCHAT, "litgpt": _LITGPT}


class _Spelling(dict[str, str]):
    """Writes a field as its flag."""

    def __init__(self, flags: bool) -> None:
        self._flags = flags

    def __missing__(self, field: str) -> str:
        return f"--{field.replace('_', '-')}" if self._flags else field


def init_from_hint(value: str) -> str | None:
    """What to write for a value of nanoGPT's init_from that names no model."""
    here = _INIT_FROM_OF_NANOGPT.get(value)
    return f"init_from={value} is nanoGPT's; {here}" if here else None


def sample_hint(name: str) -> str | None:
    """What to write for an option of nanoGPT's sample.py; None where it has none of that name."""
    here = _SAMPLE_OF_NANOGPT.get(name)
    return f"--{name} is nanoGPT's; here it is {here}" if here else None


def hint(name: str, *, flags: bool) -> str | None:
    """What to write for another trainer's option; None where the name is nobody's.

    Args:
        name: the option, with underscores.
        flags: name our fields as flags (``--max-steps``), not as keys of a TOML file.
    """
    for trainer, names in _TABLES.items():
        if name in names:
            given = f"--{name}" if flags else name
            return f"{given} is {trainer}'s; here it is {names[name].format_map(_Spelling(flags))}"
    return None
