"""Import every module of the installed package and look for its data files.

Run from another folder than the source, against a wheel: ``python tests/import_all.py``.
"""

import importlib
import pkgutil
from pathlib import Path

import pygpt

SOURCE = Path(__file__).parent.parent
DATA = {".toml", ".pyi", ".typed", ".html", ".json"}


def main() -> None:
    """Fail if a module of the source is missing from the package, or does not import."""
    installed = Path(pygpt.__file__).parent
    assert installed != SOURCE / "pygpt", f"{installed} is the source folder, not a wheel"
    names = {m.name for m in pkgutil.walk_packages(pygpt.__path__, "pygpt.")}
    for name in sorted(names - {"pygpt.__main__"}):
        importlib.import_module(name)
    for path in sorted((SOURCE / "pygpt").rglob("*")):
        relative = path.relative_to(SOURCE / "pygpt")
        if path.suffix == ".py" or path.suffix in DATA:
            assert (installed / relative).exists(), f"the wheel lacks pygpt/{relative}"
    print(f"imported {len(names)} modules from {installed}")


if __name__ == "__main__":
    main()
