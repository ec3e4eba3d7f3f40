"""Layouts that people have: each is loaded with the right values, or refused by name."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor

from pygpt import GPT, GPTConfig, InputError
from pygpt.hub import huggingface, layout, stored

CONFIG = GPTConfig(16, 50257, n_layer=2, n_head=2, n_embd=8, dropout=0.1)
FIELDS = {
    "model_type": "gpt2", "vocab_size": 50257, "n_positions": 16, "n_embd": 8, "n_layer": 2,
    "n_head": 2,
}  # fmt: skip
Tensors = dict[str, Tensor]


@pytest.fixture
def model(seed: int) -> GPT:
    torch.manual_seed(seed)
    model = GPT(CONFIG, "eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def tensors_of(model: GPT) -> Tensors:
    return huggingface.to_tensors(model)


def write(path: Path, tensors: Tensors, **fields: object) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(FIELDS | fields))
    safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def assert_loads(path: Path, model: GPT) -> None:
    loaded, _ = huggingface.load(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_written_loads_again(seed: int, tmp_path: Path, bias: bool) -> None:
    torch.manual_seed(seed)
    config = GPTConfig(4, 50257, n_layer=2, n_head=1, n_embd=4, bias=bias)
    model = GPT(config, "eager")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    tensors = tensors_of(model)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == layout.shapes(config)
    fields = {"n_positions": 4, "n_head": 1, "n_embd": 4, "pygpt": {"bias": bias}}
    assert_loads(write(tmp_path, tensors, **fields), model)


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def with_masks(tensors: Tensors) -> Tensors:
    masks: Tensors = {}
    for layer in range(CONFIG.n_layer):
        masks[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8).tril()
        masks[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return tensors | masks


def compiled_blocks(tensors: Tensors) -> Tensors:
    return {
        re.sub(r"^h\.(\d+)\.", r"transformer.h.\1._orig_mod.", name): tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        prefixed(""),
        prefixed("transformer."),
        prefixed("_orig_mod.transformer."),
        prefixed("module._orig_mod.transformer."),
        compiled_blocks,
        with_masks,
        lambda tensors: tensors | {"lm_head.weight": tensors["wte.weight"].clone()},
        lambda tensors: (
            {n: t for n, t in tensors.items() if n != "wte.weight"}
            | {"lm_head.weight": tensors["wte.weight"]}
        ),
    ],
    ids="plain transformer compiled module compiled_blocks masks head head_only".split(),
)
def test_names_that_people_have(
    model: GPT, tmp_path: Path, change: Callable[[Tensors], Tensors]
) -> None:
    assert_loads(write(tmp_path, change(tensors_of(model))), model)


@pytest.mark.parametrize(
    ("drop", "fields"),
    [
        ("", {}),
        ("n_positions", {"n_ctx": 16}),
        ("n_positions", {"n_ctx": 16, "n_positions": None}),
        ("", {"n_inner": None, "activation_function": None, "layer_norm_epsilon": None,
              "tie_word_embeddings": None, "pygpt": None, "resid_pdrop": None}),
        ("", {"n_inner": 32, "activation_function": "gelu_pytorch_tanh"}),
    ],
)  # fmt: skip
def test_fields_that_people_have(
    model: GPT, tmp_path: Path, drop: str, fields: dict[str, object]
) -> None:
    write(tmp_path, tensors_of(model))
    kept = {name: value for name, value in FIELDS.items() if name != drop}
    (tmp_path / "config.json").write_text(json.dumps(kept | fields))
    assert_loads(tmp_path, model)


def test_a_missing_field_is_gpt2s_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config, tokenizer = layout.from_config({"model_type": "gpt2", "n_embd": 24})
    assert config == GPTConfig(1024, 50257, 12, 12, 24, dropout=0.1)
    assert tokenizer is None
    assert "gives no vocab_size = 50257, n_positions = 1024, n_layer = 12, n_head" in caplog.text


def test_a_byte_order_mark_is_skipped(model: GPT, tmp_path: Path) -> None:
    write(tmp_path, tensors_of(model))
    file = tmp_path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert_loads(tmp_path, model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_are_loaded_as_fp32(
    model: GPT, tmp_path: Path, dtype: torch.dtype
) -> None:
    rounded = {name: tensor.to(dtype) for name, tensor in tensors_of(model).items()}
    loaded, _ = huggingface.load(write(tmp_path, rounded))
    for name, tensor in tensors_of(loaded).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, rounded[name].float()), name


def test_a_sharded_file_loads(model: GPT, tmp_path: Path) -> None:
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**FIELDS))
    theirs.transformer.load_state_dict(tensors_of(model))
    theirs.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_loads(tmp_path, model)
    index = tmp_path / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    lost = sorted(set(fields["weight_map"].values()))[-1]
    (tmp_path / lost).rename(tmp_path / "lost")
    with pytest.raises(InputError, match=f"{lost} is missing"):
        huggingface.load(tmp_path)
    for name in ("../model.safetensors", "/etc/passwd", 3):
        index.write_text(json.dumps({"weight_map": {"wte.weight": name}}))
        with pytest.raises(InputError, match="is not the name of a .safetensors file beside it"):
            huggingface.load(tmp_path)


def test_a_head_of_its_own_is_refused(model: GPT, tmp_path: Path) -> None:
    """transformers computes with it, tied or not; ignoring it would give other logits."""
    tensors = prefixed("transformer.")(tensors_of(model))
    head = tensors["transformer.wte.weight"].clone()
    head[50256, 7] += 1
    write(tmp_path, tensors | {"lm_head.weight": head}, tie_word_embeddings=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(theirs.lm_head.weight, head)
    with pytest.raises(InputError, match="lm_head.weight differs from the token embedding"):
        huggingface.load(tmp_path)


def test_what_does_not_belong_is_listed(model: GPT, tmp_path: Path) -> None:
    tensors = tensors_of(model)
    write(tmp_path, tensors, n_layer=1)
    with pytest.raises(
        InputError, match=r"not part of this model: h.1.attn.c_attn.bias, .* and 6 more"
    ):
        huggingface.load(tmp_path)
    write(tmp_path, tensors | {"score.weight": torch.zeros(2, 8)})
    with pytest.raises(InputError, match="not part of this model: score.weight"):
        huggingface.load(tmp_path)
    del tensors["ln_f.bias"]
    tensors["wpe.weight"] = tensors["wpe.weight"][:9].contiguous()
    write(tmp_path, tensors)
    message = r"missing: ln_f.bias; of another shape .*: wpe.weight \(9, 8\) instead of \(16, 8\)"
    with pytest.raises(InputError, match=message):
        huggingface.load(tmp_path)
    write(tmp_path, tensors | {"transformer.wpe.weight": torch.zeros(16, 8)})
    with pytest.raises(InputError, match="are the same tensor"):
        huggingface.load(tmp_path)


def test_integer_weights_are_refused(model: GPT, tmp_path: Path) -> None:
    tensors = tensors_of(model)
    tensors["h.1.mlp.c_fc.weight"] = tensors["h.1.mlp.c_fc.weight"].to(torch.int8)
    with pytest.raises(InputError, match=r"h.1.mlp.c_fc.weight is stored as I8; only floating"):
        huggingface.load(write(tmp_path, tensors))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_is_refused(model: GPT, tmp_path: Path, value: float) -> None:
    tensors = tensors_of(model)
    tensors["h.0.attn.c_proj.weight"][3, 2:4] = value
    with pytest.raises(InputError, match=r"h.0.attn.c_proj.weight has 2 values of 64 that are NaN"):
        huggingface.load(write(tmp_path, tensors))


def test_weights_whose_sum_overflows_are_finite(model: GPT, tmp_path: Path) -> None:
    with torch.no_grad():
        model.wte.weight.fill_(3e38)
    assert_loads(write(tmp_path, tensors_of(model)), model)


def test_biases_of_a_model_without_biases_are_refused(model: GPT, tmp_path: Path) -> None:
    write(tmp_path, tensors_of(model), pygpt={"bias": False})
    with pytest.raises(InputError, match='ln_1.bias is not zero, and config.json says "bias"'):
        huggingface.load(tmp_path)


def test_a_block_of_rows_at_a_time(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "CHUNK_BYTES", 3 * 8 * 5)
    torch.manual_seed(seed)
    tensors = {"a": torch.randn(11, 5), "s": torch.tensor(2.5), "e": torch.zeros(0, 5)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    file = stored.StoredTensors([tmp_path / "x.safetensors"])
    for name, tensor in tensors.items():
        target = torch.full_like(tensor, 7.0)
        file.copy_into(name, target)
        assert torch.equal(target, tensor)
        assert file.equal(name, target)
        assert not file.equal(name, target + 1) or not tensor.numel()


_PEAK = """
import json, resource, sys
from pathlib import Path
import torch
from pygpt.hub import huggingface
small, large = map(Path, sys.argv[1:])
huggingface.load(small)  # modules, thread pools
torch.set_num_threads(1)
def anonymous_and_file():
    fields = dict(l.split(":") for l in open("/proc/self/status") if ":" in l)
    return int(fields["VmHWM"].split()[0]) * 1024
before = anonymous_and_file()
model, _ = huggingface.load(large)
print((anonymous_and_file() - before) / (4 * model.config.n_params()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_takes_little_more_than_the_weights(
    model: GPT, tmp_path: Path, dtype: torch.dtype
) -> None:
    small = write(tmp_path / "small", tensors_of(model))
    sizes = {"n_embd": 512, "n_layer": 8, "n_head": 8}
    config, _ = layout.from_config(FIELDS | sizes)
    tensors = {
        name: torch.zeros(shape, dtype=dtype) for name, shape in layout.shapes(config).items()
    }
    large = write(tmp_path / "large", tensors, **sizes)
    command = [sys.executable, "-c", _PEAK, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.2
