"""Names of models: which are directories, what is fetched from the Hub, what is refused.

The Hub is a small server here; huggingface_hub itself talks to it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from pygpt import InputError
from pygpt.hub import download
from tests.helpers.hub_server import COMMIT, Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    root = tmp_path / "hub"
    config = transformers.GPT2Config(
        vocab_size=50257, n_positions=16, n_embd=8, n_layer=1, n_head=1
    )
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(root / "openai-community/gpt2")
    model.save_pretrained(root / "some/sharded", max_shard_size="1MB")
    for name in ("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "README.md"):
        path = root / "openai-community/gpt2" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"never asked for")
    pickled = shutil.copytree(root / "openai-community/gpt2", root / "some/pickle")
    (pickled / "model.safetensors").unlink()
    llama = root / "some/llama"
    llama.mkdir()
    (llama / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 3}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with Hub.serving(root) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def fetch(*names: str, **environment: str) -> list[str]:
    """The directory or the error of each name, found in a process of its own.

    huggingface_hub reads its environment when it is imported.
    """
    program = (
        "import sys\n"
        "from pygpt import InputError\n"
        "from pygpt.hub.download import model_directory\n"
        "for name in sys.argv[1:]:\n"
        "    name, _, revision = name.partition('@')\n"
        "    try: print(model_directory(name, revision or None))\n"
        "    except InputError as error: print('InputError', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_only_what_is_needed_is_fetched_and_only_once(hub: Hub, seed: int) -> None:
    directory, sharded = map(Path, fetch("gpt2", "some/sharded"))
    assert sorted(file.name for file in directory.iterdir()) == ["config.json", "model.safetensors"]
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert not any(name.endswith((".bin", ".h5", ".onnx", ".md")) for name in hub.sent)
    assert len(hub.sent) == len(set(hub.sent))

    hub.sent.clear()
    again = fetch("gpt2", f"gpt2@{COMMIT}", HF_HUB_OFFLINE="1")
    assert again == [str(directory)] * 2
    assert not hub.sent

    from pygpt.hub import huggingface

    model, tokenizer = huggingface.load(directory)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(sharded).eval()
    torch.manual_seed(seed)
    idx = torch.randint(50257, (1, 16))
    with torch.no_grad():
        logits, _ = model.eval()(idx, idx)
        assert (theirs(idx).logits - logits).abs().max() < 1e-4
    assert tokenizer.name == "gpt2"


def test_what_the_hub_refuses_is_one_line(hub: Hub) -> None:
    answers = fetch("some/pickle", "some/llama", "some/nothing", "gpt2@v9")
    for answer, part in zip(
        answers,
        (
            "some/pickle on the Hub has no model.safetensors; other formats are pickles",
            "some/llama: model_type = 'llama'; pygpt runs 'gpt2' only",
            "the Hub has no model 'some/nothing'",
            "openai-community/gpt2 has no revision 'v9'",
        ),
        strict=True,
    ):
        assert answer.startswith("InputError ")
        assert part in answer
    assert not any("pytorch_model" in name for name in hub.sent)


@pytest.mark.parametrize(
    "environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://nowhere.invalid"}]
)
def test_no_network_says_which_files_and_where_to_put_them(
    hub: Hub, environment: dict[str, str]
) -> None:
    (answer,) = fetch("gpt2-xl", no_proxy="*", **environment)
    assert "no network, or offline mode, and config.json of openai-community/gpt2-xl" in answer
    assert "`hf download openai-community/gpt2-xl config.json model.safetensors" in answer
    assert "give its path" in answer


def test_a_directory_has_precedence_and_a_path_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "runs").mkdir()
    assert download.model_directory("gpt2") == Path("gpt2")
    assert download.hub_id("gpt2-xl") == "openai-community/gpt2-xl"
    assert download.hub_id("owner/name") == "owner/name"
    for path in ("runs/mine", "./x", "/a/b", "a/b/c", "~/x", ""):
        assert download.hub_id(path) is None
    with pytest.raises(InputError, match=r"no model 'gtp2-medium'.*did you mean 'gpt2-medium'\?"):
        download.model_directory("gtp2-medium")
    with pytest.raises(InputError, match="no model 'runs/mine': it is neither a directory here"):
        download.model_directory("runs/mine")


def test_huggingface_hub_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'pip install "pygpt-trainer\[hub\]"'):
        download.model_directory("gpt2")
