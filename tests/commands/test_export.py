"""The export command: what it writes is what transformers loads, and what it refuses."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import SafetensorError

from pygpt import GPT, GPTConfig, InputError, export
from pygpt.config import TrainConfig
from pygpt.runs import checkpoint
from pygpt.runs.models import load
from pygpt.runs.run import Run
from pygpt.tokenizers.base import get_tokenizer
from pygpt.training.optimizer import build_optimizer


def run_export(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *flags])
    export.main()


@pytest.fixture
def run(tmp_path: Path, seed: int) -> Run:
    torch.manual_seed(seed)
    config = TrainConfig(data=("data/books",), batch_tokens=4096, max_steps=9)
    run = Run(tmp_path / "run")
    run.open(config, torch.device("cpu"), 0)
    run.append_metrics({"step": 3, "train_loss": 4.5})
    model = GPT(GPTConfig(16, 50304, n_layer=1, n_head=1, n_embd=32))
    optimizer = build_optimizer(model, config)
    info = get_tokenizer("gpt2").info
    checkpoint.save(run.checkpoints, model, optimizer, info, checkpoint.TrainerState(3, 4.25))
    return run


def test_a_hugging_face_directory_is_whole(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run_export(monkeypatch, str(run.path), "--to", str(out), "--dtype", "BF16")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert theirs.dtype == torch.bfloat16
    assert theirs.config.vocab_size == 50257
    assert theirs.config.n_ctx == 16
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = tokenizer("The future", return_tensors="pt").input_ids
    model, _ = load(run.path)
    with torch.no_grad():
        ours = model(ids)[0][0, -1, :50257]
        # A bf16 model: three products of 8-bit mantissas behind each other.
        assert (theirs(ids).logits[0, -1].float() - ours).abs().max() < 0.05
    trimmed, _ = load(out)
    assert trimmed.config.vocab_size == 50257
    card = (out / "README.md").read_text()
    for part in (
        "| data | books |", "| steps | 3 of 9 |", "| tokens | 12,288 (4,096 a step) |",
        "| train loss | 4.5000 nats", "| validation loss | 4.2500 nats",
        "library_name: transformers",
    ):  # fmt: skip
        assert part in card


def test_padding_is_kept_when_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run_export(monkeypatch, str(run.path), "--to", str(out), "--keep-padding")
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 50304
    (newest,) = run.checkpoints.iterdir()
    before = load(newest)[0].state_dict()
    for name, tensor in load(out)[0].state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("format", "package", "file"),
    [("gguf", "gguf", "model-Q8_0.gguf"), ("onnx", "onnxscript", "model.onnx")],
)
def test_other_formats(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, package: str, file: str
) -> None:
    pytest.importorskip(package, reason=f"waits for {package}")
    out = tmp_path / "out"
    dtype = ("--dtype", "q8_0") if format == "gguf" else ()
    run_export(monkeypatch, str(run.path), "--to", str(out), "--format", format, *dtype)
    assert {file, "README.md"} <= {path.name for path in out.iterdir()}


def test_what_is_refused_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine").touch()
    with pytest.raises(InputError, match="exists and is not an empty directory"):
        run_export(monkeypatch, str(run.path), "--to", str(used))
    for fields, message in (
        ({"dtype": "q8_0"}, "--format hf has no --dtype q8_0; it has float32"),
        ({"format": "onnx", "dtype": "F16"}, "--format onnx has no --dtype F16"),
        ({"push_to_hub": "name"}, "--push-to-hub takes OWNER/NAME"),
    ):
        with pytest.raises(InputError, match=message):
            export.ExportConfig(run="x", to=Path("x"), **fields)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no model 'gtp2'.*did you mean 'gpt2'"):
        run_export(monkeypatch, "gtp2", "--to", "x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs gguf: pip install "pygpt-trainer\[export\]"'):
        run_export(monkeypatch, str(run.path), "--to", "x", "--format", "gguf")


def test_weights_beyond_fp16_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load(run.path)
    with torch.no_grad():
        model.wpe.weight[3, 3] = 1e5
    info = get_tokenizer("gpt2").info
    state = checkpoint.TrainerState(4, None)
    checkpoint.save(run.checkpoints, model, build_optimizer(model, TrainConfig()), info, state)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="wpe.weight has values that float16 can't hold"):
        run_export(monkeypatch, str(run.path), "--to", str(out), "--dtype", "float16")
    assert not out.exists()
    assert not list(tmp_path.glob(".partial*"))


def test_a_full_disk_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(InputError, match=r"No space left on device\); nothing was kept"):
        run_export(monkeypatch, str(run.path), "--to", str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_push_to_hub(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[Any] = []

    class Api:
        def create_repo(self, name: str, exist_ok: bool) -> str:
            asked.append((name, exist_ok))
            return f"https://hub/{name}"

        def upload_folder(self, repo_id: str, folder_path: Path) -> None:
            asked.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            raise OSError("401 Unauthorized\nmore")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"failed \(401 Unauthorized\); log in .*`hf upload me/x"):
        run_export(monkeypatch, str(run.path), "--to", str(out), "--push-to-hub", "me/x")
    assert asked[0] == ("me/x", True)
    assert "model.safetensors" in asked[1][1]
    assert 'from_pretrained("me/x")' in (out / "README.md").read_text()
