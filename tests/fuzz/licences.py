"""The packages that pygpt needs, all the way down, with their licences: a Markdown table.

python tests/fuzz/licences.py [EXTRA…]
"""

from __future__ import annotations

import re
import sys
from importlib import metadata

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def needed(name: str, extras: set[str], found: dict[str, str]) -> None:
    """Add the licence of each package that `name` needs and that is installed."""
    for requirement in metadata.requires(name) or []:
        extra = _EXTRA.search(requirement)
        if extra and extra[1] not in extras:
            continue
        match = _NAME.match(requirement)
        assert match
        package = match[0].lower().replace("_", "-")
        if package in found:
            continue
        try:
            found[package] = licence(package)
        except metadata.PackageNotFoundError:
            continue  # of another platform or Python
        needed(package, set(), found)


def licence(package: str) -> str:
    """As its metadata says it: an expression, a classifier, or the first line of a text."""
    fields = metadata.metadata(package)
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in fields.get_all("Classifier") or []
        if text.startswith("License ::")
    ]
    text = (fields.get("License") or "").strip().partition("\n")[0]
    known = fields.get("License-Expression") or ", ".join(classifiers) or text or "not said"
    return f"{metadata.version(package)} | {known}"


if __name__ == "__main__":
    packages: dict[str, str] = {}
    needed("pygpt-trainer", set(sys.argv[1:]), packages)
    print("| package | version | licence |\n| --- | --- | --- |")
    for package, text in sorted(packages.items()):
        print(f"| {package} | {text} |")
