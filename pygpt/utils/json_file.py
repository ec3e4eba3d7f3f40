"""JSON files that people may have edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pygpt.utils.errors import InputError


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. A byte order mark, as Windows editors write it, is skipped.

    Raises:
        InputError: the file can't be read, is not JSON, or holds something else than an object.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds no JSON object, but {fields!r:.40}")
    return fields
