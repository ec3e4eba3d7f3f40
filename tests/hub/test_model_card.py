"""The model card: texts of a run stay texts."""

from pygpt import GPTConfig
from pygpt.hub.model_card import model_card
from pygpt.tokenizers.base import get_tokenizer

HOSTILE = "a|b\n---\n<script>alert(1)</script> ``` # title"


def test_a_runs_text_is_neither_html_nor_another_row() -> None:
    config = GPTConfig(8, 257, n_layer=1, n_head=1, n_embd=8)
    for format in ("hf", "gguf", "onnx"):
        card = model_card(
            config, get_tokenizer("bytes").info, {"data": HOSTILE}, title=HOSTILE, format=format,
            place=HOSTILE,
        )  # fmt: skip
        assert "<script" not in card
        assert card.count("\n---\n") == 1  # the header's end; it begins with the other
        assert card.count("```") == 2
        (row,) = (line for line in card.splitlines() if line.startswith("| data"))
        assert row.count("|") - row.count("\\|") == 3
