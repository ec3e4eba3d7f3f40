"""Hugging Face's layout: `transformers` loads ours with equal logits, and we load its models."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from pygpt import GPT, GPTConfig, InputError
from pygpt.config import TrainConfig
from pygpt.hub import huggingface
from pygpt.kernels import launch
from pygpt.runs import checkpoint
from pygpt.tokenizers.base import get_tokenizer
from pygpt.training.optimizer import build_optimizer
from pygpt.utils.files import remove_partial

BYTES = get_tokenizer("bytes").info


def short_run(config: GPTConfig) -> tuple[GPT, torch.optim.Optimizer]:
    """A model that has been trained a little, so that no tensor has its initial value."""
    model = GPT(config)
    optimizer = build_optimizer(model, TrainConfig(learning_rate=1e-2))
    for _ in range(5):
        idx = torch.randint(BYTES.n_vocab, (4, 17))
        model.loss(idx[:, :-1], idx[:, 1:]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), optimizer


@pytest.mark.parametrize("bias", [True, False])
def test_transformers_loads_a_checkpoint_with_equal_logits(
    seed: int, tmp_path: Path, bias: bool
) -> None:
    torch.manual_seed(seed)
    config = GPTConfig(32, 320, n_layer=3, n_head=2, n_embd=64, bias=bias)
    model, optimizer = short_run(config)
    path = checkpoint.save(tmp_path, model, optimizer, BYTES, checkpoint.TrainerState(5, None))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    idx = torch.randint(BYTES.n_vocab, (3, 32))
    with torch.no_grad():
        ours, _ = model(idx, idx)
        assert (theirs(idx).logits - ours).abs().max() < 1e-4
    # Padded ids have likely logits here, with so little training; they must not be sampled.
    written = theirs.generate(idx[:, :4], max_new_tokens=20, do_sample=True, pad_token_id=0)
    assert written.max() < BYTES.n_vocab


def test_transformers_own_model_loads_with_equal_logits(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=50257, n_positions=48, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, tokenizer = huggingface.load(tmp_path)
    assert tokenizer == get_tokenizer("gpt2").info
    idx = torch.randint(50257, (2, 48))
    with torch.no_grad():
        logits, _ = ours.eval()(idx, idx)
        assert (theirs(idx).logits - logits).abs().max() < 1e-4


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, optimizer = short_run(GPTConfig(16, 320, n_layer=1, n_head=2, n_embd=8, bias=False))
    return checkpoint.save(tmp_path, model, optimizer, BYTES, checkpoint.TrainerState(5, 1.5))


def change_config(path: Path, **fields: object) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, "model_type = 'llama'; pygpt runs 'gpt2' only"),
        ({"activation_function": "relu"}, "activation_function = 'relu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"n_head": 3}, "n_embd=8 is not divisible by n_head=3"),
        ({"n_embd": 16}, r"another shape .*: wte.weight \(320, 8\) instead of \(320, 16\), wpe"),
        ({"n_layer": 2}, "missing: h.1.ln_1.weight, h.1.ln_1.bias, .* and 6 more"),
        ({"vocab_size": "many"}, "vocab_size = 'many' is not a whole number"),
        ({"pygpt": [1]}, r'"pygpt" is not an object, but \[1\]'),
        ({"pygpt": {"tokenizer": {"x": 1}}}, '"pygpt"."tokenizer" has a wrong field'),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06"),
        ({"n_inner": 16}, "n_inner = 16; pygpt runs 4 × n_embd only"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": None}, 'no "model_type"'),
    ],
)
def test_what_is_not_a_gpt2_is_refused(
    saved: Path, fields: dict[str, object], message: str
) -> None:
    change_config(saved, **fields)
    with pytest.raises(InputError, match=message):
        huggingface.load(saved)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["pygpt"]["tokenizer"]["n_vocab"] = config["vocab_size"] + 1
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"the tokenizer bytes has \d+ ids, and vocab_size is"):
        huggingface.load(saved)


def test_damaged_files_are_named(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="model.safetensors is damaged"):
        huggingface.load(saved)
    weights.unlink()
    with pytest.raises(InputError, match="does not exist; weights are read from safetensors only"):
        huggingface.load(saved)
    (saved / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match='has no "weight_map"'):
        huggingface.load(saved)
    (saved / "config.json").write_text("[1]")
    with pytest.raises(InputError, match=r"config.json holds no JSON object, but \[1\]"):
        huggingface.load(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        huggingface.load(saved)
    with pytest.raises(InputError, match="holds no model"):
        huggingface.load(saved / "nowhere")


def test_training_state_round_trip(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    config = GPTConfig(16, 320, n_layer=2, n_head=2, n_embd=8)
    model, optimizer = short_run(config)
    state = checkpoint.TrainerState(step=5, val_loss=3.25)
    path = checkpoint.save(tmp_path, model, optimizer, BYTES, state)
    other = GPT(config)
    other_optimizer = build_optimizer(other, TrainConfig())
    assert checkpoint.load_training(path, other, other_optimizer, BYTES) == state
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        for key, value in optimizer.state[a].items():
            assert torch.equal(other_optimizer.state[b][key], value), (name, key)


@pytest.mark.parametrize("file", ["optimizer.safetensors", "model.safetensors", "trainer.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"{")])
def test_damaged_checkpoint_names_the_one_before(
    saved: Path, file: str, damage: Callable[[Path], object]
) -> None:
    damage(saved / file)
    model = GPT(GPTConfig(16, 320, n_layer=1, n_head=2, n_embd=8, bias=False))
    with pytest.raises(InputError, match=f"{file}.*; delete or move {saved}, then --resume takes"):
        checkpoint.load_training(saved, model, build_optimizer(model, TrainConfig()), BYTES)


def test_a_checkpoint_is_never_seen_half_deleted(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            (path / "trainer.json").unlink()
            raise KeyboardInterrupt

    directory = saved.parent
    saved.rename(directory / "step-00000001")
    model, optimizer = short_run(GPTConfig(16, 320, n_layer=1, n_head=2, n_embd=8, bias=False))
    state = checkpoint.TrainerState(2, 1.0)
    newest = checkpoint.save(directory, model, optimizer, BYTES, state)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.prune(directory, keep=1)
    assert checkpoint.list_checkpoints(directory) == [newest]
    remove_partial(directory)
    assert list(directory.iterdir()) == [newest]


def test_another_launch_table_on_resume_is_said(
    seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(16, 320, n_layer=1, n_head=2, n_embd=8), "triton")
    optimizer = build_optimizer(model, TrainConfig())
    path = checkpoint.save(tmp_path, model, optimizer, BYTES, checkpoint.TrainerState(0, None))
    checkpoint.load_training(path, model, optimizer, BYTES)
    assert "launch table" not in caplog.text
    launch.use_entries({}, "tuned.json (a card, 123)")
    try:
        checkpoint.load_training(path, model, optimizer, BYTES)
    finally:
        launch.use_table(None)
    built_in = re.escape(launch.describe())
    assert re.search(
        rf"the launch table {built_in}, and this start takes tuned.json \(a card, 123\)",
        caplog.text,
    )
    eager = GPT(model.config, "eager")
    checkpoint.load_training(path, eager, build_optimizer(eager, TrainConfig()), BYTES)
    assert len(caplog.records) == 1


def test_checkpoint_of_another_model_is_refused(saved: Path) -> None:
    model = GPT(GPTConfig(16, 320, n_layer=1, n_head=2, n_embd=16, bias=False))
    with pytest.raises(InputError, match="n_embd=8.* and this run trains .*n_embd=16"):
        checkpoint.load_training(saved, model, build_optimizer(model, TrainConfig()), BYTES)


def test_checkpoint_of_another_tokenizer_is_refused(saved: Path) -> None:
    model = GPT(GPTConfig(16, 320, n_layer=1, n_head=2, n_embd=8, bias=False))
    gpt2 = get_tokenizer("gpt2").info
    with pytest.raises(InputError, match="tokenizer 'bytes', and the dataset holds ids of 'gpt2'"):
        checkpoint.load_training(saved, model, build_optimizer(model, TrainConfig()), gpt2)
