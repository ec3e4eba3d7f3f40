"""Import every module of the installed package and look for its data files.

Run from another folder than the source, against a wheel: ``python tests/import_all.py``.
"""

import importlib
import pkgutil
from pathlib import Path

import pygpt

SOURCE = Path(__file__).parent.parent
EXTRAS = {
    "datatrove",
    "lm_eval",
    "onnx",
    "onnxscript",
    "gguf",
    "babel",
    "huggingface_hub",
    "starlette",
    "uvicorn",
}
"""Packages that only one command needs; a module that needs one at its top may be skipped."""
DATA = {".toml", ".pyi", ".typed", ".json", ".po", ".css", ".js", ".j2", ".html"}


def main() -> None:
    """Fail if a module of the source is missing from the package, or does not import."""
    installed = Path(pygpt.__file__).parent
    assert installed != SOURCE / "pygpt", f"{installed} is the source folder, not a wheel"
    names = {m.name for m in pkgutil.walk_packages(pygpt.__path__, "pygpt.")}
    for name in sorted(names - {"pygpt.__main__"}):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in EXTRAS:
                raise
            print(f"{name} waits for {error.name}")
    for path in sorted((SOURCE / "pygpt").rglob("*")):
        relative = path.relative_to(SOURCE / "pygpt")
        if path.suffix == ".py" or path.suffix in DATA:
            assert (installed / relative).exists(), f"the wheel lacks pygpt/{relative}"
    print(f"imported {len(names)} modules from {installed}")


if __name__ == "__main__":
    main()
