"""Commands answer without torch: help, a wrong flag, a wrong path."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("prepare", "train", "eval", "sample", "chat", "export", "report", "runs", "tune")


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command; its modules are listed on stderr as Python imports them."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def imports_torch(done: subprocess.CompletedProcess[str]) -> bool:
    lines = done.stderr.splitlines()
    return any(line.startswith("import time:") and line.split("|")[-1].strip() == "torch"
               for line in lines)  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_no_torch(name: str, tmp_path: Path) -> None:
    done = run(tmp_path, f"pygpt.{name}", "--help")
    assert done.returncode == 0
    assert f"usage: python -m pygpt.{name}" in done.stdout
    assert not imports_torch(done)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pygpt.train", "--max-stepz", "3"), "--max-steps"),
        (("pygpt.train", "--max-steps", "many"), "not a whole number"),
        (("pygpt.train", "--data", "nowhere"), "nowhere is not a dataset directory"),
        (("pygpt.train", "--config", "none.toml"), "can't read the config none.toml"),
        (("pygpt.train", "--resume", "--out", "runs/none"), "holds no run to resume"),
        (("pygpt.prepare", "text", "nowhere"), "nowhere"),
        (("pygpt.eval", "runs/none"), "runs/none"),
        (("pygpt.sample", "runs/none"), "runs/none"),
        (("pygpt.chat", "runs/none"), "runs/none"),
        (("pygpt.sample", "--prompts", "none.txt"), "none.txt can't be read"),
        (("pygpt.sample", "--temperature", "-1"), "temperature must be"),
        (("pygpt.sample", "gpt2", "--device", "mps"), "device 'mps' is a Mac's GPU"),
        (("pygpt.eval", "gpt2", "--device", "gpu"), "no device 'gpu'; try auto, cpu, cuda or cuda"),
        (("pygpt.chat", "gpt2", "--device", "mps"), "device 'mps' is a Mac's GPU"),
        (("pygpt.export", "runs/none", "--to", "x"), "runs/none"),
        (("pygpt.report", "none.log"), "none.log"),
    ],
)
def test_bad_input_imports_no_torch(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not imports_torch(done)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "darwin", reason="waits for another system than macOS")
def test_train_refuses_the_gpu_of_a_mac_before_any_work(tmp_path: Path) -> None:
    done = run(tmp_path, "pygpt.train", "--device", "mps")
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert said == ["error: device 'mps' is a Mac's GPU, and this is no Mac; try auto or cpu"]
    assert not list(tmp_path.iterdir())


def test_the_report_of_a_log_needs_no_torch_for_the_data_sheet(tmp_path: Path) -> None:
    rows = "".join(f"{step},{4 + 7 / (1 + step)},0.5\n" for step in range(0, 400, 10))
    (tmp_path / "log.csv").write_text("step,loss,seconds\n" + rows, encoding="utf-8")
    done = run(tmp_path, "pygpt.report", "log.csv", "--card", "RTX 4070", "--batch-tokens", "8192")
    assert done.returncode == 0
    assert "tokens/s" in done.stdout
    assert not imports_torch(done)


def test_import_pygpt_is_lazy() -> None:
    code = (
        "import sys, pygpt; print('torch' in sys.modules); pygpt.GPT; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_model_imports_little_beside_torch() -> None:
    """Modules are counted, not seconds: compilers and the reading of flags are not needed."""
    code = (
        "import sys, torch; before = {*sys.modules}; import pygpt; pygpt.GPT, pygpt.GPTConfig;"
        "print(*({*sys.modules} - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = done.stdout.split()
    others = {name.split(".")[0] for name in new} - {*sys.stdlib_module_names, "pygpt"}
    assert not others
    assert not [name for name in new if name.startswith(("torch._dynamo", "torch._inductor"))]
    assert len(new) < 40
