"""Exports as mlx-lm reads them: the same tokens in, the same greedy tokens out."""

from pathlib import Path

import pytest

from pygpt.hub.export import export
from pygpt.tokenizers.base import get_tokenizer
from tests.helpers.greedy import N_TOKENS, PROMPT, greedy, varied_model

mlx = pytest.importorskip("mlx.core", reason='waits for MLX: pip install "mlx[cpu]" mlx-lm')
mlx_lm = pytest.importorskip("mlx_lm", reason='waits for mlx-lm: pip install "mlx[cpu]" mlx-lm')


@pytest.mark.parametrize("bias", [True, False])
def test_mlx_lm_writes_the_same(seed: int, tmp_path: Path, bias: bool) -> None:
    from mlx_lm.generate import generate_step

    ours = get_tokenizer("gpt2")
    model = varied_model(seed, ours, bias=bias)
    export(model, ours, tmp_path / "model", format="hf", dtype="float32", card="")
    theirs, tokenizer = mlx_lm.load(str(tmp_path / "model"))
    assert tokenizer.encode(PROMPT) == ours.encode(PROMPT)

    def no_end_of_text(_: object, logits: "mlx.array") -> "mlx.array":
        logits[..., ours.info.end_of_text] = -mlx.inf
        return logits

    steps = generate_step(
        mlx.array(ours.encode(PROMPT)), theirs, max_tokens=N_TOKENS,
        logits_processors=[no_end_of_text],
    )  # fmt: skip
    assert [int(token) for token, _ in steps] == greedy(model, ours)[0]
