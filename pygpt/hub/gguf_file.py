"""A model as a GGUF file, which llama.cpp, ollama and LM Studio run.

Written by the package gguf, llama.cpp's own writer. Matrices take the type asked for. Norms, biases
and position embeddings stay F32, as llama.cpp's converter leaves them: its kernels read no others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygpt.hub import layout
from pygpt.hub.tokenizer_files import gpt2_merges, token_strings
from pygpt.tokenizers.chat import END_OF_TURN, JINJA_TEMPLATE, special_ids
from pygpt.utils.errors import InputError

if TYPE_CHECKING:
    from pygpt.model import GPT
    from pygpt.tokenizers.base import Tokenizer

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""pygpt's names of number types → GGUF's."""

_FILE_TYPES = {
    "F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"
}  # fmt: skip
_Q8_0_BLOCK = 32
# Every reader of a byte-pair encoding wants merges. This one would join two NUL bytes into a token
# that does not exist, which leaves them as they are.
_NO_MERGES = ["Ā Ā"]


def write(path: Path, model: GPT, tokenizer: Tokenizer, dtype: str) -> None:
    """Write a model and its tokenizer.

    Args:
        path: the file; it must not exist.
        model: on any device.
        tokenizer: the model's; ids it does not have must have been trimmed.
        dtype: one of TYPES.

    Raises:
        InputError: q8_0 with a width that is not a multiple of 32, or a tokenizer that llama.cpp
            can't have.
    """
    import gguf

    config, kind = model.config, TYPES[dtype]
    if dtype == "q8_0" and config.n_embd % _Q8_0_BLOCK:
        raise InputError(
            f"q8_0 stores blocks of {_Q8_0_BLOCK} numbers, and n_embd={config.n_embd} is not a "
            "multiple of that; take --dtype float16"
        )
    logging.getLogger("gguf").setLevel(logging.WARNING)  # it lists the file it writes
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_name("pygpt")
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[kind]])
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    for name, values, matrix in _tensors(model):
        target = gguf.GGMLQuantizationType[kind if matrix else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(values, target), raw_dtype=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def file_name(dtype: str) -> str:
    """The usual name of a file of this type."""
    return f"model-{TYPES[dtype]}.gguf"


def _tensors(model: GPT) -> Iterator[tuple[str, np.ndarray[Any, Any], bool]]:
    """GGUF's name, the values in fp32, and whether they take the file's type.

    GGUF has linear weights as (out, in), like pygpt and unlike Hugging Face, and llama.cpp asks for
    biases.
    """
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.n_layer)
    state = model.state_dict()
    for name, zeros in layout.to_hf(state, config).items():
        tensor = state.get(name, zeros)
        translated = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert translated is not None, name
        matrix = tensor.dim() == 2 and name != "wpe.weight"
        yield translated, tensor.detach().float().cpu().contiguous().numpy(), matrix


def _add_tokenizer(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    import gguf

    info = tokenizer.info
    if info.name not in ("gpt2", "bytes"):
        raise InputError(
            f"llama.cpp has no tokenizer like {info.name!r}: GGUF files are written for models of "
            "the tokenizers gpt2 and bytes; take --format hf or onnx"
        )
    types = [gguf.TokenType.NORMAL] * info.n_vocab
    special = special_ids(info)
    for index in (info.end_of_text, *special.values()):
        types[index] = gguf.TokenType.CONTROL
    padding = range(info.n_vocab, vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(token_strings(tokenizer) + [f"[PAD{index}]" for index in padding])
    writer.add_token_types(types + [gguf.TokenType.UNUSED] * len(padding))
    writer.add_token_merges(gpt2_merges() if info.name == "gpt2" else _NO_MERGES)
    writer.add_bos_token_id(info.end_of_text)
    writer.add_eos_token_id(info.end_of_text)
    writer.add_add_bos_token(False)
    if special:
        writer.add_eot_token_id(special[END_OF_TURN])
        writer.add_chat_template(JINJA_TEMPLATE)
