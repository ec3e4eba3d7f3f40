"""Evaluation: every target once, with the context it is promised; and the command."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pygpt import GPT, GPTConfig, InputError
from pygpt import eval as eval_command
from pygpt.data import TokenDataset, writer
from pygpt.data.corpora.text import TextFiles
from pygpt.evaluation.loss import Evaluation, Windows, evaluate
from pygpt.tokenizers.base import get_tokenizer

BLOCK = 16


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    text = folder / "text.txt"
    text.write_text("Größe und Maß: naïve café, ½ price. " * 40, encoding="utf-8")
    writer.prepare(TextFiles((text,)), folder / "data", "bytes", val_fraction=0.3)
    return folder / "data"


@pytest.fixture
def model(seed: int) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(BLOCK, 320, n_layer=2, n_head=2, n_embd=16)).double()


@pytest.mark.parametrize("stride", [BLOCK, 5, 1])
def test_every_target_counts_once_with_its_context(data: Path, model: GPT, stride: int) -> None:
    dataset = TokenDataset(data, "val")
    ids = torch.from_numpy(dataset.window(0, len(dataset)))
    # The definition, one target at a time: target t (1 is the first) lies in the first window
    # that counts it, which starts at the largest multiple of stride that leaves it in reach.
    nats = 0.0
    for t in range(1, len(ids)):
        start = 0 if t <= BLOCK else -(-(t - BLOCK) // stride) * stride
        assert t - start >= BLOCK - stride + 1 or start == 0
        logits, _ = model(ids[None, start:t])
        nats -= logits[0, -1].log_softmax(-1)[ids[t]].item()
    result = evaluate(model, dataset, stride=stride, batch_size=3)
    assert result.tokens == len(ids) - 1
    assert result.nats == pytest.approx(nats, rel=1e-9)
    assert result.loss == pytest.approx(nats / (len(ids) - 1), rel=1e-9)
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_bits_per_byte_divides_by_the_text(data: Path, model: GPT) -> None:
    dataset = TokenDataset(data, "val")
    result = evaluate(model, dataset)
    ids = dataset.window(1, len(dataset) - 1)
    expected = len(get_tokenizer("bytes").decode_bytes(ids[ids < 256]))
    assert result.bytes == expected
    assert result.bits_per_byte == pytest.approx(result.nats / math.log(2) / expected)


def test_a_part_is_spread_over_the_split(data: Path) -> None:
    dataset = TokenDataset(data, "val")
    windows = Windows.over(dataset, BLOCK, BLOCK, max_tokens=5 * BLOCK)
    whole = Windows.over(dataset, BLOCK, BLOCK, None)
    assert len(windows.indices) == 5
    steps = np.diff(windows.indices)
    assert steps.max() - steps.min() <= 1
    assert windows.indices[-1] + steps.max() >= len(whole.indices) - 1


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_read_every_window_once_and_as_many_each(data: Path, world_size: int) -> None:
    dataset = TokenDataset(data, "val")
    windows = Windows.over(dataset, 16, 8, max_tokens=8 * 10)
    shares = [windows.share(rank, world_size) for rank in range(world_size)]
    assert len({len(share.indices) for share in shares}) == 1
    read = [index for share in shares for index in share.indices if index is not None]
    assert sorted(read) == list(windows.indices)
    (padding,) = Windows(16, 8, (None,)).batches(dataset, 4)
    assert (padding[1] == -1).all()


def test_repeats_exactly_and_leaves_the_mode_and_random_numbers_alone(
    data: Path, model: GPT
) -> None:
    dataset = TokenDataset(data, "val")
    model.train()
    state = torch.get_rng_state()
    assert evaluate(model, dataset) == evaluate(model, dataset)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())


def test_batch_size_changes_nothing(data: Path, model: GPT) -> None:
    dataset = TokenDataset(data, "val")
    one, many = evaluate(model, dataset, batch_size=1), evaluate(model, dataset, batch_size=64)
    assert one.nats == pytest.approx(many.nats, rel=1e-12)


def test_a_loss_beyond_exp_has_an_infinite_perplexity() -> None:
    result = Evaluation(nats=7100.0, tokens=10, bytes=10)
    assert result.perplexity == math.inf
    assert str(result).startswith("loss 710.0000 nats/token, perplexity inf, ")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"stride": 0}, r"stride must be in \[1, block_size=16\], got 0"),
        ({"stride": 17}, "got 17"),
        ({"block_size": 17}, "block_size=17, and the model has 16 positions"),
    ],
)
def test_out_of_range(data: Path, model: GPT, kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(model, TokenDataset(data, "val"), **kwargs)  # type: ignore[arg-type]


def test_split_shorter_than_a_window(data: Path) -> None:
    dataset = TokenDataset(data, "val")
    with pytest.raises(InputError, match=f"val split has {len(dataset)} tokens .* 10001"):
        Windows.over(dataset, 10_000, 10_000, None)


def test_command_on_a_hugging_face_directory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=50257, n_positions=16, n_embd=8, n_layer=1, n_head=1
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "hf")
    text = tmp_path / "text.txt"
    text.write_text("A short text for GPT-2's tokenizer, said again and again. " * 20)
    writer.prepare(TextFiles((text,)), tmp_path / "gpt2", "gpt2", val_fraction=0.5)

    def run(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["eval", str(tmp_path / "hf"), *flags])
        eval_command.main()

    run("--data", str(tmp_path / "gpt2"), "--json", "--stride", "4")
    fields = json.loads(capsys.readouterr().out)
    assert fields["loss"] == pytest.approx(math.log(50257), abs=0.2)
    assert fields["tokens"] == len(TokenDataset(tmp_path / "gpt2", "val")) - 1
    with pytest.raises(InputError, match="say which dataset with --data"):
        run()
    with pytest.raises(InputError, match="tokenizer 'gpt2' and .* holds ids of 'bytes'"):
        run("--data", str(data))
