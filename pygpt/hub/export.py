"""A model as a directory for other programs: Hugging Face's layout, GGUF or ONNX."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pygpt.hub import layout
from pygpt.utils.errors import InputError
from pygpt.utils.files import directory_beside

if TYPE_CHECKING:
    from pygpt.model import GPT
    from pygpt.tokenizers.base import Tokenizer

Format = Literal["hf", "gguf", "onnx"]

DTYPES: dict[Format, tuple[str, ...]] = {
    "hf": ("float32", "float16", "bfloat16"),
    "gguf": ("float32", "float16", "bfloat16", "q8_0"),
    "onnx": ("float32",),
}
"""Number types of each format; the first is the default."""

_ALIASES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "fp32": "float32",
            "fp16": "float16"}  # fmt: skip
_PACKAGES: dict[Format, tuple[str, ...]] = {
    "hf": (),
    "gguf": ("gguf",),
    "onnx": ("onnx", "onnxscript"),
}


def resolve_dtype(name: str | None, to: Format) -> str:
    """The number type that `name` means in a format; "F16" and "fp16" are float16.

    Raises:
        InputError: the format has no such type.
    """
    accepted = DTYPES[to]
    if name is None:
        return accepted[0]
    plain = _ALIASES.get(name.lower(), name.lower())
    if plain not in accepted:
        raise InputError(f"--format {to} has no --dtype {name}; it has {', '.join(accepted)}")
    return plain


def check_packages(to: Format) -> None:
    """Raise InputError where a package that a format is written with is not installed."""
    absent = [name for name in _PACKAGES[to] if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(
            f'--format {to} needs {" and ".join(absent)}: pip install "pygpt-trainer[export]"'
        )


def check_target(to: Path) -> None:
    """Raise InputError for a directory that has something in it: nothing is overwritten."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} exists and is not an empty directory; give another --to")


def without_padding(model: GPT, n_vocab: int) -> GPT:
    """The model with only the rows of the embedding that the tokenizer has ids for."""
    import torch

    from pygpt.model import GPT

    config = dataclasses.replace(model.config, vocab_size=n_vocab)
    with torch.device("meta"):
        trimmed = GPT(config, model.impl)
    state = model.state_dict()
    state["wte.weight"] = state["wte.weight"][:n_vocab]
    trimmed.load_state_dict(state, assign=True)
    return trimmed.eval()


def export(
    model: GPT, tokenizer: Tokenizer, to: Path, *, format: Format, dtype: str, card: str
) -> None:
    """Write a model, its tokenizer and its model card into a new directory.

    The directory is written under another name and renamed: there is never half of one.

    Args:
        model: on the CPU; for "onnx" with the eager implementations.
        tokenizer: the model's.
        to: the directory; missing or empty.
        format: what to write.
        dtype: one of DTYPES.
        card: the text of the README.md, which the Hub shows.

    Raises:
        InputError: `to` is in use or can't be written, another process writes it, or the format
            can't hold this model.
    """
    from safetensors import SafetensorError

    check_target(to)
    try:
        with directory_beside(to, keep=False) as partial:
            _write(model, tokenizer, partial, format, dtype)
            (partial / "README.md").write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{to} can't be written ({error}); nothing was kept. Fix that, or make room, or give "
            "another --to"
        ) from error


def push(directory: Path, repository: str) -> str:
    """Upload a directory as a model on the Hub, created where it is missing; its address.

    Raises:
        InputError: huggingface_hub is not installed, nobody is logged in, or the upload fails.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise InputError(
            '--push-to-hub needs huggingface_hub: pip install "pygpt-trainer[hub]"'
        ) from error
    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=directory)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{directory} is written, but the upload to {repository} failed ({reason}); log in "
            f"with `hf auth login` and run `hf upload {repository} {directory}`"
        ) from error
    return str(address)


def _write(model: GPT, tokenizer: Tokenizer, to: Path, format: Format, dtype: str) -> None:
    if format == "gguf":
        from pygpt.hub import gguf_file

        gguf_file.write(to / gguf_file.file_name(dtype), model, tokenizer, dtype)
        return
    _write_descriptions(model, tokenizer, to, dtype)
    if format == "onnx":
        from pygpt.hub import onnx_file

        onnx_file.write(to / "model.onnx", model)
    else:
        _write_tensors(model, to / "model.safetensors", dtype)


def _write_descriptions(model: GPT, tokenizer: Tokenizer, to: Path, dtype: str) -> None:
    from pygpt.hub.huggingface import json_text
    from pygpt.hub.tokenizer_files import tokenizer_files

    config, info = model.config, tokenizer.info
    files = tokenizer_files(tokenizer, config.block_size)
    files["config.json"] = json_text(layout.to_config(config, info) | {"torch_dtype": dtype})
    files["generation_config.json"] = json_text(layout.to_generation_config(config, info))
    for name, text in files.items():
        (to / name).write_text(text, encoding="utf-8")


def _write_tensors(model: GPT, path: Path, dtype: str) -> None:
    import safetensors.torch
    import torch

    target = getattr(torch, dtype)
    tensors = {}
    for name, tensor in layout.to_hf(model.state_dict(), model.config).items():
        tensors[name] = tensor.detach().to(target).contiguous()
        if not tensors[name].isfinite().all():
            raise InputError(f"{name} has values that {dtype} can't hold; take --dtype bfloat16")
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
