"""What the corpora of local files of records share: JSON lines and parquet."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pygpt.data.corpora.base import some
from pygpt.data.corpora.parts import Records


@dataclasses.dataclass(frozen=True)
class RecordFiles(Records):
    """Files of records, whose text is in one field or column.

    Args:
        files: read in this order.
        text_column: the field's or column's name.
    """

    files: tuple[Path, ...]
    text_column: str = "text"

    @property
    def source(self) -> str:
        """See `Records`."""
        return ", ".join(some([str(path) for path in self.files]))

    @property
    def details(self) -> dict[str, Any]:
        """See `Records`."""
        return {"text_column": self.text_column}
