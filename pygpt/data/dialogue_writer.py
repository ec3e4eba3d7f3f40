"""``python -m pygpt.prepare chat``: dialogues to a dataset of ids with a loss mask.

Beside each split's ids, ``train.bin``, lies ``mask-train.bin``: a byte for each id, 1 where the
assistant wrote it and 0 elsewhere. How dialogues become rows of a batch is `pygpt.data.rows`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from pygpt.data.corpora.base import some
from pygpt.data.corpora.compressed import check_files
from pygpt.data.corpora.dialogues import read_dialogues
from pygpt.data.corpora.parts import Unreadable
from pygpt.data.encoding import dtype_of
from pygpt.data.inspection import report
from pygpt.data.manifest import DatasetInfo, SplitInfo
from pygpt.data.shards import Disk, ShardWriter, SplitState
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer
from pygpt.tokenizers.chat import ChatTokenizer, Conversation, Message
from pygpt.utils.errors import InputError, check_seed
from pygpt.utils.files import directory_beside
from pygpt.utils.progress import ProgressBar

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
NO_REPLY = "without a reply of the assistant"
_LENGTHS = (256, 512, 1024)  # contexts that people train with


@dataclasses.dataclass(frozen=True)
class PrepareChat:
    """Encode dialogues into a dataset directory: ids, and a mask of what the assistant wrote.

    A dialogue is a line of JSON with "messages" ({"role", "content"}) or ShareGPT's "conversations"
    ({"from", "value"}), or an object of a JSON array. Train and val are drawn by a hash of each
    dialogue's text and the seed. Turns behind the last reply are left out: nothing is learned from
    them. Training packs whole dialogues into rows of its context.
    """

    files: Positional[tuple[Path, ...]]
    """Files of dialogues, which may be compressed (gz, bz2, xz, zst)."""

    out: Path
    """The directory to make; it must not exist yet."""

    tokenizer: str = "gpt2"
    """gpt2 or bytes; the template's special tokens get the ids behind its own."""

    val_fraction: float = 0.05
    """Share of dialogues that goes into the val split, between 0 and 1."""

    seed: int = 0
    """Decides which dialogues those are."""

    skip_bad: bool = False
    """Leave out and count dialogues that can't be used, instead of stopping at the first."""

    def run(self) -> str:
        """Write the dataset; a report of it.

        Raises:
            InputError: `out` exists or can't be written, a value is out of its range, a file can't
                be read, a dialogue can't be used, or there are fewer than two.
        """
        if not self.files:
            raise InputError("chat needs files: python -m pygpt.prepare chat FILE… --out DIR")
        if os.path.lexists(self.out):
            raise InputError(f"{self.out} exists; take another --out")
        if not 0 < self.val_fraction < 1:
            raise InputError(f"val_fraction must be between 0 and 1, got {self.val_fraction}")
        check_seed(self.seed)
        check_files(self.files)
        start = time.perf_counter()
        tokenizer = chat_tokenizer(get_tokenizer(self.tokenizer))
        try:
            with directory_beside(self.out, keep=False) as partial:
                info = _Writing(self, tokenizer).run(partial)
                info.write(partial)
        except OSError as error:
            raise InputError(f"{self.out} can't be written: {error}") from error
        return report(info, self.out, time.perf_counter() - start)


class _Writing:
    """One run: reads dialogues, draws their splits, writes ids and masks."""

    def __init__(self, options: PrepareChat, tokenizer: ChatTokenizer) -> None:
        self._options, self._tokenizer = options, tokenizer
        self._token_bytes = tokenizer.token_bytes()
        self._dropped: Counter[str] = Counter()
        self._longer = dict.fromkeys(_LENGTHS, 0)
        self._n_targets = dict.fromkeys(SPLITS, 0)

    def run(self, directory: Path) -> DatasetInfo:
        dtype = dtype_of(self._tokenizer)
        with contextlib.ExitStack() as stack:
            disk = stack.enter_context(Disk())

            def writer(name: str, dtype: np.dtype[np.unsignedinteger]) -> ShardWriter:
                opened = ShardWriter(directory, name, dtype, None, SplitState(), disk)
                return stack.enter_context(opened)

            ids = {name: writer(name, dtype) for name in SPLITS}
            masks = {name: writer(f"mask-{name}", np.dtype(np.uint8)) for name in SPLITS}
            for messages in self._usable():
                conversation = self._tokenizer.encode_conversation(messages)
                name = self._draw(conversation) if ids["val"].documents else "val"
                n_bytes = int(self._token_bytes[conversation.ids].sum())
                ids[name].write(conversation.ids.astype(dtype), n_bytes, 1)
                masks[name].write(conversation.is_target.astype(np.uint8), 0, 1)
                self._n_targets[name] += int(conversation.is_target.sum())
                for length in _LENGTHS:
                    self._longer[length] += len(conversation.ids) > length
            splits = {
                name: dataclasses.replace(ids[name].finish(), loss_mask=masks[name].finish().shards)
                for name in SPLITS
            }
        self._check(splits)
        details = {
            "val_fraction": self._options.val_fraction,
            "seed": self._options.seed,
            "targets": self._n_targets,
            "longer_than": {str(length): n for length, n in self._longer.items()},
            "dropped": dict(self._dropped),
        }
        source = ", ".join(some([str(path) for path in self._options.files]))
        return DatasetInfo(self._tokenizer.info, dtype.name, splits, source, details)

    def _usable(self) -> Iterator[list[Message]]:
        """Dialogues up to their last reply; others are refused or counted."""
        files = self._options.files
        total = sum(path.stat().st_size for path in files)
        with ProgressBar("encoding dialogues", total, unit="bytes") as bar:
            for path in files:
                for n_bytes, dialogue in read_dialogues(path):
                    if not path.suffix.startswith((".gz", ".bz2", ".xz", ".zst")):
                        bar.advance(n_bytes)
                    if isinstance(dialogue, Unreadable):
                        self._refuse(dialogue.reason)
                        continue
                    replies = [at for at, each in enumerate(dialogue) if each.role == "assistant"]
                    if replies:
                        yield dialogue[: replies[-1] + 1]
                    else:
                        self._dropped[NO_REPLY] += 1

    def _refuse(self, reason: str) -> None:
        if not self._options.skip_bad:
            raise InputError(
                f"{reason}; nothing was kept. Give --skip-bad to leave such dialogues out and "
                "count them"
            )
        logger.warning("left out: %s", reason)
        self._dropped["unreadable"] += 1

    def _draw(self, conversation: Conversation) -> str:
        data = conversation.ids.astype("<u4").tobytes()
        key = str(self._options.seed).encode()
        digest = hashlib.blake2b(data, key=key, digest_size=8).digest()
        drawn = int.from_bytes(digest, "little") / 2**64
        return "val" if drawn < self._options.val_fraction else "train"

    def _check(self, splits: dict[str, SplitInfo]) -> None:
        for name, split in splits.items():
            if not split.documents:
                dropped = "".join(f", {n} {reason}" for reason, n in self._dropped.items())
                n = sum(each.documents for each in splits.values())
                raise InputError(
                    f"no dialogue is left for the split {name} (dialogues written: {n}{dropped}); "
                    "give two dialogues with a reply or more"
                )
