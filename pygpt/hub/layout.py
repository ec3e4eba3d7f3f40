"""Hugging Face's GPT-2 layout and pygpt's as pure functions: names, shapes, orientation, fields.

Three things differ. Hugging Face stores the four linear layers of a block as (in, out), pygpt as
(out, in). It has no GPT-2 without biases: pygpt writes zeros for them, says so by "bias" of the
entry "pygpt" in ``config.json``, and leaves them out again when reading. And its files come with
prefixes of whatever wrapped the model when it was saved.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pygpt.config import GPTConfig
from pygpt.tokenizers.chat import END_OF_TURN, special_ids
from pygpt.tokenizers.info import TokenizerInfo
from pygpt.utils.errors import InputError
from pygpt.utils.json_file import build, of_type

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


class UnsupportedModelError(InputError):
    """Another architecture, or a variant of GPT-2 whose arithmetic pygpt does not have."""


HEAD = "lm_head.weight"
"""The head. GPT-2 ties it to the token embedding, so files hold it twice or not at all."""

_TRANSPOSED = ("c_attn.weight", "attn.c_proj.weight", "c_fc.weight", "mlp.c_proj.weight")
# torch.compile, DistributedDataParallel and GPT2LMHeadModel each add one.
_PREFIXES = ("_orig_mod.", "module.", "transformer.")
# The causal mask, which files of transformers before 4.30 hold.
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")

# Fields that change the arithmetic, with the values that pygpt computes. The first is the default.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    # three names of the tanh approximation
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
    "pruned_heads": (None, {}),
}
_SHAPE = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}


def _transposed(name: str) -> bool:
    return name.endswith(_TRANSPOSED)


def shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in Hugging Face's layout, zero biases included."""
    c, layers = config.n_embd, range(config.n_layer)
    block: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (c,), "ln_1.bias": (c,),
        "attn.c_attn.weight": (c, 3 * c), "attn.c_attn.bias": (3 * c,),
        "attn.c_proj.weight": (c, c), "attn.c_proj.bias": (c,),
        "ln_2.weight": (c,), "ln_2.bias": (c,),
        "mlp.c_fc.weight": (c, 4 * c), "mlp.c_fc.bias": (4 * c,),
        "mlp.c_proj.weight": (4 * c, c), "mlp.c_proj.bias": (c,),
    }  # fmt: skip
    return {
        "wte.weight": (config.vocab_size, c),
        "wpe.weight": (config.block_size, c),
        **{f"h.{i}.{name}": shape for i in layers for name, shape in block.items()},
        "ln_f.weight": (c,),
        "ln_f.bias": (c,),
    }


def to_hf(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """A state dict of `GPT` → Hugging Face's tensors: views, and zeros for biases it lacks."""
    tensors = {}
    for name, shape in shapes(config).items():
        if name in state:
            tensors[name] = state[name].t() if _transposed(name) else state[name]
        else:
            tensors[name] = state["wte.weight"].new_zeros(shape)
    return tensors


def describe_untied_head() -> str:
    """Why a head that differs from the token embedding is refused.

    transformers computes with such a head, whatever ``tie_word_embeddings`` says
    (`PreTrainedModel.tie_weights`, 5.x). `GPT` has no head of its own, so ignoring it would give
    other logits.
    """
    return (
        f"{HEAD} differs from the token embedding wte.weight; GPT-2's are one tensor (tied), and "
        "a model with a head of its own does not run in pygpt"
    )


def describe_unexpected_bias(name: str) -> str:
    """Why a model that says it has no biases can't be loaded."""
    return f'{name} is not zero, and config.json says "bias": false; one of the two is wrong'


def match(stored: Mapping[str, tuple[int, ...]], config: GPTConfig) -> dict[str, str]:
    """Name of each tensor that the configuration asks for → its name in the file.

    Args:
        stored: name → shape of what the file holds.
        config: the model.

    Returns:
        An entry for every name of `shapes`, and one for HEAD where the file has it.

    Raises:
        InputError: tensors are missing, unexpected or of another shape; each is listed.
    """
    if config.n_layer > len(stored):  # before that many names are made
        raise InputError(
            f"the tensors don't fit config.json: n_layer is {config.n_layer:,}, and there are "
            f"{len(stored)} tensors"
        )
    names: dict[str, str] = {}
    for name in stored:
        plain = _without_prefixes(name)
        if _MASK.fullmatch(plain):
            continue
        if plain in names:
            raise InputError(f"{names[plain]} and {name} are the same tensor of a GPT-2")
        names[plain] = name
    if "wte.weight" not in names and HEAD in names:
        names["wte.weight"] = names[HEAD]  # transformers ties in this direction too
    expected = shapes(config)
    problems = {
        "missing": [name for name in expected if name not in names],
        "not part of this model": [
            stored_name
            for name, stored_name in names.items()
            if name not in expected and name != HEAD
        ],
        "of another shape than config.json says": [
            f"{name} {stored[names[name]]} instead of {shape}"
            for name, shape in expected.items()
            if name in names and stored[names[name]] != shape
        ],
    }
    found = [f"{what}: {shorten(items)}" for what, items in problems.items() if items]
    if found:
        raise InputError(f"the tensors don't fit config.json; {'; '.join(found)}")
    return names


def _without_prefixes(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.replace(prefix, "")
    return name


def shorten(items: Sequence[str], limit: int = 6) -> str:
    """A list for an error message: the first ones, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def to_config(
    config: GPTConfig, tokenizer: TokenizerInfo, pygpt: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The ``config.json`` under which `transformers`, llama.cpp and mlx-lm load the model.

    Args:
        config: the shape.
        tokenizer: identifies the tokenizer.
        pygpt: further fields of the entry "pygpt", which only pygpt reads.
    """
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_ctx": config.block_size,  # the older name, which llama.cpp and mlx-lm ask for
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "torch_dtype": "float32",
        "pygpt": {
            "bias": config.bias,
            **(pygpt or {}),
            "tokenizer": tokenizer.fields(),
        },
    }


def to_generation_config(config: GPTConfig, tokenizer: TokenizerInfo) -> dict[str, Any]:
    """The ``generation_config.json``: padded ids are never sampled, and a chat's turn ends."""
    end_of_turn = special_ids(tokenizer).get(END_OF_TURN)
    end = tokenizer.end_of_text
    padding = list(range(tokenizer.n_vocab, config.vocab_size))
    return {
        "bos_token_id": end,
        "eos_token_id": end if end_of_turn is None else [end, end_of_turn],
        **({"suppress_tokens": padding} if padding else {}),
    }


def from_config(fields: Mapping[str, Any]) -> tuple[GPTConfig, TokenizerInfo | None]:
    """A ``config.json`` → the shape, and the tokenizer where pygpt wrote the file.

    A field that is missing or null has GPT-2's value, as in transformers.

    Raises:
        InputError: another architecture, a variant whose arithmetic pygpt does not have, or a
            field of a wrong type.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    for name, accepted in _REQUIRED.items():
        if name in given and given[name] not in accepted:
            raise UnsupportedModelError(
                f"{name} = {given[name]!r}; pygpt runs {_names(accepted)} only"
            )
    if "model_type" not in given:
        raise InputError('it has no "model_type"; pygpt runs "gpt2" only')
    sizes = _sizes(given)
    ours = given.get("pygpt", {})
    if not isinstance(ours, dict):
        raise InputError(f'"pygpt" is not an object, but {ours!r:.40}')
    config = GPTConfig(
        block_size=sizes["n_positions"],
        vocab_size=sizes["vocab_size"],
        n_layer=sizes["n_layer"],
        n_head=sizes["n_head"],
        n_embd=sizes["n_embd"],
        dropout=_dropout(given),
        bias=_bias(ours),
    )
    if given.get("n_inner", 4 * config.n_embd) != 4 * config.n_embd:
        raise UnsupportedModelError(f"n_inner = {given['n_inner']}; pygpt runs 4 × n_embd only")
    try:
        return config, build(TokenizerInfo, ours["tokenizer"]) if "tokenizer" in ours else None
    except TypeError as error:
        raise InputError(f'"pygpt"."tokenizer" has a wrong field: {error}') from error


def _sizes(given: dict[str, Any]) -> dict[str, int]:
    if "n_positions" not in given and "n_ctx" in given:
        given["n_positions"] = given["n_ctx"]
    absent = [f"{name} = {value}" for name, value in _SHAPE.items() if name not in given]
    if absent:
        logger.info("config.json gives no %s: taken as GPT-2's", ", ".join(absent))
    sizes = {name: given.get(name, value) for name, value in _SHAPE.items()}
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{name} = {value!r:.40} is not a whole number")
    return sizes


def _dropout(given: Mapping[str, Any]) -> float:
    value = given.get("resid_pdrop", 0.1)
    try:
        return float(of_type("resid_pdrop", value, float))
    except TypeError as error:
        raise InputError(str(error)) from error


def _bias(ours: Mapping[str, Any]) -> bool:
    value = ours.get("bias", True)
    if not isinstance(value, bool):
        raise InputError(f'"pygpt"."bias" = {value!r:.40} is not true or false')
    return value


def _names(accepted: Iterable[Any]) -> str:
    return " or ".join(repr(value) for value in accepted if value is not None) or "none"
