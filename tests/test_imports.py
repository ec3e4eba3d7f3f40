"""Who may import whom: commands → run and training → model, data → ops → kernels and _C."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "pygpt").glob("*.py")) + sorted((ROOT / "kernels").glob("*.py"))

# From the bottom to the top. A module imports only from rows before its own, or from its own row
# if it is no command.
LAYERS = [
    {"errors", "files", "signals", "heads", "units", "gpu_timing"},
    {"dataset_json", "config", "cli"},
    {"kernels", "_C"},
    {"linear_cross_entropy", "cpu_ops", "cpu_gelu", "cpu_attention"},
    {"implementations", "tokenizer"},
    {"ops"},
    {"model", "shard_scan", "data", "hardware"},
    {
        "corpus",
        "dataset_writer",
        "generate",
        "evaluation",
        "optim",
        "offload",
        "pretrained",
        "checkpoint",
        "run",
        "memory",
        "roofline",
        "compiling",
    },
    {"trainer", "flags"},
    {"display"},
    {"dry_run"},
    {"train", "eval", "sample", "prepare", "tune", "__main__"},
]
COMMANDS = LAYERS[-1]
SEES_C = {"__init__", "data", "cpu_ops", "cpu_gelu"}  # __init__ to say if it is missing


def layer(module: str) -> int:
    found = [i for i, names in enumerate(LAYERS) if module in names]
    assert found, f"pygpt.{module} is in no layer: add it where it belongs"
    return found[0]


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it, with names from pygpt resolved to modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            assert node.module
            names.add(node.module)
            if node.module == "pygpt":
                names |= {f"pygpt.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_point_downwards(path: Path) -> None:
    if path.name == "__init__.py":
        return
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("pygpt.")}
    if path.parent.name == "kernels":
        others = {name.split(".")[0] for name in imported(path)} - {"pygpt", "torch", "triton"}
        assert others <= sys.stdlib_module_names
        assert ours <= {"kernels", "errors"}
        return
    own = layer(path.stem)
    for name in ours:
        if name in COMMANDS:
            pytest.fail(f"pygpt.{path.stem} imports the command pygpt.{name}")
        assert layer(name) <= own, f"pygpt.{path.stem} imports pygpt.{name} from above"


def test_only_data_and_ops_see_the_extension() -> None:
    seers = {path.stem for path in MODULES if "pygpt._C" in imported(path)}
    assert seers <= SEES_C
    assert "data" in seers
