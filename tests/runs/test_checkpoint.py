"""Checkpoints: read in place and written by one rename, and a run of an older version goes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pygpt import eval as eval_command
from pygpt import train
from pygpt.config import GPTConfig, TrainConfig
from pygpt.hub import huggingface
from pygpt.model import GPT
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.tokenizers.base import get_tokenizer
from pygpt.training.optimizer import build_optimizer
from pygpt.utils.errors import InputError

BYTES = get_tokenizer("bytes").info
BEFORE_ROOMS = Path(__file__).parent / "fixtures" / "run-before-rooms"
SMALL = GPTConfig(16, 320, n_layer=1, n_head=2, n_embd=8)


def save(directory: Path, config: GPTConfig, step: int = 1) -> Path:
    model = GPT(config)
    state = checkpoint.TrainerState(step, None)
    return checkpoint.save(directory, model, build_optimizer(model, TrainConfig()), BYTES, state)


def test_loading_keeps_the_tensors_that_are_there(tmp_path: Path) -> None:
    path = save(tmp_path, SMALL)
    model = GPT(SMALL)
    optimizer = build_optimizer(model, TrainConfig())
    tensors = [*model.parameters()]
    tensors += [value for p in model.parameters() for value in optimizer.state[p].values()]
    places = [tensor.data_ptr() for tensor in tensors]
    checkpoint.load_training(path, model, optimizer, BYTES)
    assert [tensor.data_ptr() for tensor in tensors] == places


_PEAK = """
import sys
from pathlib import Path
from pygpt.config import TrainConfig
from pygpt.hub import huggingface
from pygpt.model import GPT
from pygpt.runs import checkpoint
from pygpt.training.optimizer import build_optimizer

def kib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

path = Path(sys.argv[1])
config, tokenizer = huggingface.read_config(path)
model = GPT(config)
optimizer = build_optimizer(model, TrainConfig())
for parameter in model.parameters():
    for value in optimizer.state[parameter].values():
        value.fill_(0)  # pages of zeros are not there until they are written
before = kib("VmRSS")
checkpoint.load_training(path, model, optimizer, tokenizer)
print((kib("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak memory")
def test_loading_needs_no_second_model(tmp_path: Path) -> None:
    config = GPTConfig(64, 320, n_layer=6, n_head=8, n_embd=512)
    path = save(tmp_path, config)
    command = [sys.executable, "-c", _PEAK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights = 4 * config.n_params()  # 76 MB; the moments are twice that
    # 16 MiB of a file at a time, and what Python and safetensors allocate.
    assert float(done.stdout) < weights / 2


def test_an_interrupted_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, SMALL)
    before = (path / "model.safetensors").read_bytes()

    def broken(*_: object) -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface, "describing_files", broken)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "model.safetensors").read_bytes() == before


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = save(tmp_path, SMALL)
    (path / "extra").touch()
    assert save(tmp_path, SMALL) == path
    assert list(tmp_path.iterdir()) == [path]
    assert not (path / "extra").exists()


def test_moments_of_another_shape_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, SMALL)
    file = path / "optimizer.safetensors"
    shutil.copy(
        save(tmp_path / "other", GPTConfig(16, 320, n_layer=1, n_embd=16, n_head=2)) / file.name,
        file,
    )
    model = GPT(SMALL)
    with pytest.raises(InputError, match=r"has no wte.weight/exp_avg of shape \(320, 8\).*AdamW"):
        checkpoint.load_training(path, model, build_optimizer(model, TrainConfig()), BYTES)


def test_a_run_of_an_older_version_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run was made before the modules moved into packages."""
    shutil.copytree(BEFORE_ROOMS, tmp_path / "old")
    run = Run(tmp_path / "old" / "run")
    data = str(tmp_path / "old" / "data")
    before = run.read_metrics()
    assert [line["step"] for line in before] == list(range(1, 13))
    flags = ["--resume", "--out", str(run.path), "--data", data, "--max-steps", "16"]
    monkeypatch.setattr(sys, "argv", ["train", *flags])
    train.main()
    after = run.read_metrics()
    assert after[:12] == before
    assert [line["step"] for line in after[12:]] == [13, 14, 15, 16]
    # What the older version went on with. The GEMMs of another CPU round differently.
    expected = [5.761640548706055, 5.773833751678467, 5.767120361328125, 5.758399963378906]
    assert [line["train_loss"] for line in after[12:]] == pytest.approx(expected, rel=1e-5)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["eval", str(run.path), "--data", data])
    eval_command.main()
    assert "loss" in capsys.readouterr().out


def test_weights_of_an_older_version_are_read(tmp_path: Path) -> None:
    path = BEFORE_ROOMS / "run" / "checkpoints" / "step-00000012"
    model, tokenizer = huggingface.load(path)
    assert tokenizer == BYTES
    assert all(p.isfinite().all() for p in model.parameters())
    optimizer = build_optimizer(model, TrainConfig())
    assert checkpoint.load_training(path, model, optimizer, tokenizer).step == 12
    moments = optimizer.state[model.wte.weight]
    assert moments["step"] == 12
    assert torch.count_nonzero(moments["exp_avg_sq"]) > 0
