"""Turns text into a dataset directory that ``python -m pygpt.train --data`` reads.

::

    python -m pygpt.prepare                                  # this Python's standard library
    python -m pygpt.prepare text books/ notes.txt --out data/books
    python -m pygpt.prepare shakespeare --tokenizer chars
    python -m pygpt.prepare parquet *.parquet --text-column text --out data/web
    python -m pygpt.prepare fineweb --sample 10BT --max-tokens 2_000_000_000
    python -m pygpt.prepare chat dialogues.jsonl --out data/chat
    python -m pygpt.prepare verify data/web                  # also: show, merge, shards
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pygpt.data import inspection, ready, writer
from pygpt.data.corpora.parts import Records, characters_of
from pygpt.data.corpora.select import select
from pygpt.data.corpora.shakespeare import Shakespeare
from pygpt.data.dialogue_writer import PrepareChat
from pygpt.data.options import Options
from pygpt.utils import cli


def prepare(options: Options) -> None:
    """Encode what the options name, and print what came out."""
    name = options.source.rsplit("/", 1)[-1]
    out = options.out or Path("data") / f"{name}-{options.tokenizer}"
    corpus = select(options)
    in_shards = isinstance(corpus, Records) and not isinstance(corpus, Shakespeare)
    start = time.perf_counter()
    info = writer.prepare(
        corpus,
        out,
        characters_of(corpus) if options.tokenizer == "chars" else options.tokenizer,
        val_fraction=options.val_fraction,
        seed=options.seed,
        workers=options.workers,
        limits=options.limits(in_shards),
    )
    print(inspection.report(info, out, time.perf_counter() - start))


def main() -> None:
    """Run ``python -m pygpt.prepare``."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    prog = "python -m pygpt.prepare"
    if name == "verify":
        print(cli.parse(inspection.Verify, prog=f"{prog} verify", args=sys.argv[2:]).run())
    elif name == "show":
        print(cli.parse(inspection.Show, prog=f"{prog} show", args=sys.argv[2:]).run())
    elif name == "chat":
        print(cli.parse(PrepareChat, prog=f"{prog} chat", args=sys.argv[2:]).run())
    elif name == "merge":
        print(cli.parse(ready.Merge, prog=f"{prog} merge", args=sys.argv[2:]).run())
    elif name == "shards":
        print(cli.parse(ready.Shards, prog=f"{prog} shards", args=sys.argv[2:]).run())
    else:
        prepare(cli.parse(Options, prog=prog))


if __name__ == "__main__":
    cli.run(main)
