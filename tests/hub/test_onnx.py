"""ONNX files, as onnxruntime itself reads them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pygpt import GPT, GPTConfig


@pytest.mark.parametrize("bias", [True, False])
def test_onnxruntime_computes_the_same_at_every_shape(
    seed: int, tmp_path: Path, bias: bool
) -> None:
    # imported here, where the cache is the tests' own: it writes a file there
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="waits for onnxruntime: pip install onnx onnxscript onnxruntime"
    )
    pytest.importorskip("onnxscript", reason="waits for onnxscript")
    from pygpt.hub import onnx_file

    torch.manual_seed(seed)
    model = GPT(GPTConfig(24, 300, n_layer=2, n_head=2, n_embd=32, bias=bias), "eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    onnx_file.write(tmp_path / "model.onnx", model)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for shape in ((1, 1), (3, 24), (2, 7)):
        ids = torch.randint(300, shape)
        (logits,) = session.run(None, {"input_ids": ids.numpy()})
        with torch.no_grad():
            expected = model.head(model.hidden(ids)).numpy()
        assert np.abs(logits - expected).max() < 1e-4
