"""The README.md of an exported model, as the Hugging Face Hub shows it."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Mapping

from pygpt.config import GPTConfig
from pygpt.tokenizers.info import TokenizerInfo

_HEADER = """\
---
library_name: {library}
pipeline_tag: text-generation
tags:
- gpt2
- pygpt
---

# {title}

A GPT-2-class language model trained with pygpt.

| | |
| --- | --- |
"""

_USE = {
    "hf": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({python})
tokenizer = AutoTokenizer.from_pretrained({python})
```
""",
    "gguf": '```sh\nllama-cli -m {quoted}/model-*.gguf -p "The future of AI is"\n```\n',
    "onnx": """\
```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {{"input_ids": ids}})  # ids: (batch, sequence), int64
```
""",
}


def model_card(
    config: GPTConfig,
    tokenizer: TokenizerInfo,
    training: Mapping[str, str],
    *,
    title: str,
    format: str,
    place: str,
) -> str:
    """The text.

    Args:
        config: the model's shape.
        tokenizer: the model's.
        training: what is known of its training, such as {"data": …, "steps": …, "tokens": …}.
        title: the heading.
        format: "hf", "gguf" or "onnx".
        place: the directory or Hub id to load from.
    """
    rows = {
        "shape": f"{config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, "
        f"context {config.block_size:,}, {'with' if config.bias else 'without'} biases",
        "parameters": f"{config.n_params() / 1e6:,.2f} M",
        "tokenizer": f"{tokenizer.name}, {tokenizer.n_vocab:,} ids ({config.vocab_size:,} rows)",
        **training,
    }
    library = {"hf": "transformers", "onnx": "onnx", "gguf": "gguf"}[format]
    table = "".join(f"| {_plain(name)} | {_plain(value)} |\n" for name, value in rows.items())
    # neither leaves its line nor its block of code
    place = re.sub(r"[<>`]", "'", " ".join(place.split()))
    use = _USE[format].format(python=json.dumps(place), quoted=shlex.quote(place))
    return f"{_HEADER.format(library=library, title=_plain(title))}{table}\n## Use\n\n{use}"


def _plain(text: str) -> str:
    """A text from a run as one line of Markdown that is no markup, no link and ends no cell."""
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*|!\[\]])", r"\\\1", line)
