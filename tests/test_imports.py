"""Who may import whom: one ordered list of rooms."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "pygpt").rglob("*.py")) + sorted((ROOT / "kernels").glob("*.py"))

# A module imports from rooms to the left of its own, or from its own. The files at the top of
# pygpt/ are commands, except model.py; nobody imports a command.
ROOMS = (
    "utils config kernels _C ops model tokenizers data hub inference evaluation planning runs "
    "training reporting commands"
).split()
DOORS = {"__init__", "__main__"}  # what users see first: they name rooms lazily
SEES_C = {"data", "ops"}
# GPT.from_pretrained, which nanoGPT's users look for on the class, resolves names as pygpt.load.
EXCEPTIONS = {("model.py", "runs.models")}


def room(module: str) -> str:
    """The room of a module, given as its path below pygpt/ or as a dotted name without pygpt."""
    first = module.replace("/", ".").removesuffix(".py").split(".")[0]
    return first if first in ROOMS else "commands"


def imported(path: Path) -> set[str]:
    """Modules of pygpt that a file imports, anywhere in it, without the leading "pygpt."."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            assert node.module
            if node.module == "pygpt":
                names |= {f"pygpt.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return {name.removeprefix("pygpt.") for name in names if name.startswith("pygpt.")}


def location(path: Path) -> str:
    kernels = path.parent.name == "kernels"
    return f"kernels/{path.name}" if kernels else str(path.relative_to(ROOT / "pygpt"))


@pytest.mark.parametrize("path", MODULES, ids=location)
def test_a_room_imports_only_from_the_left(path: Path) -> None:
    if path.parent.name == "pygpt" and path.stem in DOORS:
        return
    own = room(location(path))
    for name in imported(path):
        if (location(path), name) in EXCEPTIONS:
            continue
        theirs = room(name)
        assert theirs != "commands", f"{location(path)} imports the command pygpt.{name}"
        assert ROOMS.index(theirs) <= ROOMS.index(own), (
            f"{location(path)}, in {own}, imports pygpt.{name} from {theirs}, which is to its right"
        )
        assert theirs != "_C" or own in SEES_C, f"{location(path)} imports the extension"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=location)
def test_a_kernel_needs_torch_and_triton_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {name.split(".")[0] for name in modules} - sys.stdlib_module_names <= {
        "pygpt",
        "torch",
        "triton",
    }
