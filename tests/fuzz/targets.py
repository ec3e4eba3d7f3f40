"""Every reader of files, with valid files for it: what `test_readers.py` damages.

A target's `files` are written into a folder; each damaged one takes the place of one of `damage`.
`read` reads the folder. It may return or raise `InputError`, nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
import zstandard
from pyarrow import parquet
from rich.console import Console

from pygpt import GPT, GPTConfig
from pygpt.config import TrainConfig, toml_file
from pygpt.config.recipes import preset_names
from pygpt.data import BatchSampler, TokenDataset, writer
from pygpt.data.corpora.dialogues import read_dialogues
from pygpt.data.corpora.jsonl import JsonLines
from pygpt.data.corpora.parquet import Parquet
from pygpt.data.corpora.parts import Records, characters_of
from pygpt.data.corpora.text import TextFiles
from pygpt.data.dialogue_writer import PrepareChat
from pygpt.data.inspection import Show, Verify
from pygpt.data.prepare_progress import Progress
from pygpt.evaluation import task_file
from pygpt.evaluation.tasks import NAMES as TASKS
from pygpt.evaluation.tasks import get_task
from pygpt.hub import huggingface
from pygpt.inference.prompts import read_prompts
from pygpt.inference.sampling import Sampling
from pygpt.inference.server.errors import RequestError
from pygpt.inference.server.protocol import Served, read_job
from pygpt.kernels import launch
from pygpt.reporting.build import as_fields, build
from pygpt.reporting.language import Language
from pygpt.reporting.page import text
from pygpt.reporting.page.html import render
from pygpt.reporting.readers import nanogpt, read_log
from pygpt.reporting.runlog import Facts, LogBuilder
from pygpt.runs import __main__ as runs_list
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.tokenizers.base import chat_tokenizer, get_tokenizer
from pygpt.training.optimizer import build_optimizer
from pygpt.utils.words import normalise
from tests.evaluation.test_scoring import LINES as TASK_LINES
from tests.reporting.test_readers import LOGS

BYTES = get_tokenizer("bytes")
CHAT = chat_tokenizer(BYTES)
SHAPE = GPTConfig(block_size=8, vocab_size=320, n_layer=1, n_head=1, n_embd=4)


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader and valid files for it."""

    files: Mapping[str, bytes]
    """Path in the folder → content."""
    read: Callable[[Path], object]
    damage: tuple[str, ...] = ()
    """Files that are damaged; all of them where it is empty."""

    @property
    def damaged(self) -> tuple[str, ...]:
        return self.damage or tuple(self.files)


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- data -----------------------------------------------------------------------------------------


def _open_dataset(folder: Path) -> None:
    for split in ("train", "val"):
        dataset = TokenDataset(folder, split)
        dataset.window(0, len(dataset))
        block = min(8, len(dataset) - 1)
        if block:
            BatchSampler(dataset, 2, block).batch(0)


def _inspect(folder: Path) -> None:
    _open_dataset(folder)
    Verify(folder).run()
    Show(folder).run()


def _npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _llmc(ids: Any) -> bytes:
    header = np.zeros(256, "<i4")
    header[:3] = (20240520, 1, len(ids))
    return header.tobytes() + ids.astype("<u2").tobytes()


def _datasets(folder: Path) -> dict[str, Target]:
    ids = np.random.default_rng(0).integers(300, 50257, 100).astype("<u2")
    sources = folder / "text"
    sources.mkdir()
    for name in "abc":
        (sources / f"{name}.txt").write_text(f"File {name}\n\nHello there, wörld.\n" * 5)
    corpus = TextFiles((sources,))
    writer.prepare(corpus, folder / "bytes", "bytes")
    writer.prepare(corpus, folder / "chars", characters_of(corpus))
    turns = [
        f'"role": "user", "content": "{i}"}}, {{"role": "assistant", "content": "yes"'
        for i in range(9)
    ]
    (folder / "d.jsonl").write_text("".join(f'{{"messages": [{{{turn}}}]}}\n' for turn in turns))
    PrepareChat((folder / "d.jsonl",), folder / "dialogues", "bytes", val_fraction=0.4).run()
    dialogues = _contents(folder / "dialogues")
    return {
        "raw shards": Target({"train.bin": ids.tobytes(), "val.bin": ids.tobytes()}, _open_dataset),
        "llm.c shards": Target(
            {"x_train_0.bin": _llmc(ids), "x_val_0.bin": _llmc(ids)}, _open_dataset
        ),
        "npy shards": Target({"x_train.npy": _npy(ids), "x_val.npy": _npy(ids)}, _open_dataset),
        "dataset.json": Target(_contents(folder / "bytes"), _inspect, ("dataset.json",)),
        "dataset.json of characters": Target(
            _contents(folder / "chars"), _inspect, ("dataset.json",)
        ),
        "dataset.json of dialogues": Target(dialogues, _inspect),
        "prepare's progress.json": Target(
            {"progress.json": json.dumps(dataclasses.asdict(Progress({"source": "a"}))).encode()},
            lambda folder: Progress.read(folder, {"source": "a"}),
        ),
    }


_DIALOGUES = b"""\
{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]}
{"messages": [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "2 + 2?"}, \
{"role": "assistant", "content": [{"type": "text", "text": "4"}]}]}
{"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]}
"""
_JSONL = b'{"text": "Once upon a time", "url": "x"}\n{"text": "two\\n\\nlines"}\n{"text": ""}\n'


def _dialogues(folder: Path) -> None:
    for path in folder.iterdir():
        for _, dialogue in read_dialogues(path):
            if isinstance(dialogue, list):
                CHAT.encode_conversation(dialogue)


def _records(corpus: Callable[[tuple[Path, ...]], Records]) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        for part in corpus(tuple(sorted(folder.iterdir()))).parts():
            for record in part.read():
                if isinstance(record, str) and record.isprintable():
                    BYTES.encode_array(record)

    return read


def _text(folder: Path) -> None:
    for document in TextFiles((folder,)).documents():
        for block in document.blocks():
            BYTES.encode_array(block)


def _parquet() -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["a", "b", None], "n": [1, 2, 3]}), buffer)
    return buffer.getvalue()


def _corpora() -> dict[str, Target]:
    return {
        "dialogues": Target({"d.jsonl": _DIALOGUES}, _dialogues),
        "dialogues in an array": Target(
            {"d.json": b"[" + b",".join(_DIALOGUES.splitlines()) + b"]"}, _dialogues
        ),
        "JSON lines": Target({"a.jsonl": _JSONL}, _records(JsonLines)),
        "JSON lines, gzip": Target({"a.jsonl.gz": gzip.compress(_JSONL)}, _records(JsonLines)),
        "JSON lines, zstd": Target(
            {"a.jsonl.zst": zstandard.ZstdCompressor().compress(_JSONL)}, _records(JsonLines)
        ),
        "parquet": Target({"a.parquet": _parquet()}, _records(Parquet)),
        "text": Target({"a.txt": b"Hello\nthere\n", "b.txt": "Grüße, 世界\r\n".encode()}, _text),
    }


# --- models and runs ------------------------------------------------------------------------------


def _load(folder: Path) -> None:
    model, tokenizer = huggingface.load(folder, impl="eager")
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.long))
    assert model.config.vocab_size >= tokenizer.n_vocab


def _start_again(folder: Path) -> None:
    """What a resumed run reads."""
    run = Run(folder)
    run.config()
    assert run.launch is None or isinstance(run.launch, str)
    run.read_metrics()
    run._keep_metrics_before(3)
    for path in sorted(run.checkpoints.iterdir()):
        model = GPT(SHAPE, "eager")
        optimizer = build_optimizer(model, TrainConfig())
        state = checkpoint.load_training(path, model, optimizer, BYTES.info)
        assert state.step + 1 > 0
    checkpoint.prune(run.checkpoints, 1)


def _list_runs(folder: Path) -> None:
    arguments = ["runs", str(folder.parent)]
    with contextlib.redirect_stdout(io.StringIO()), _argv(arguments):
        runs_list.main()


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    import sys

    before = sys.argv
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = before


def _run_files(folder: Path) -> dict[str, bytes]:
    config = TrainConfig(
        data=("data/a",), n_layer=1, n_head=1, n_embd=4, block_size=8, batch_tokens=16, max_steps=9
    )
    run = Run(folder / "run")
    run.open(config, torch.device("cpu"), 0)
    for step in (1, 2, 3, 4):
        fields: dict[str, Any] = {
            "step": step, "train_loss": 6 - step / 3, "lr": 1e-3, "grad_norm": 1.5,
            "tokens": 16 * step, "tokens_per_second": 100.0, "seconds": 0.16, "mfu": 0.01,
        }  # fmt: skip
        run.append_metrics(fields | ({"val_loss": 5.5} if step % 2 else {}))
    model = GPT(SHAPE, "eager")
    optimizer = build_optimizer(model, TrainConfig())
    model(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))[1].backward()
    optimizer.step()
    for step in (2, 4):
        state = checkpoint.TrainerState(step, 5.5, "abc", {"scale": 1.0})
        checkpoint.save(run.checkpoints, model, optimizer, BYTES.info, state)
    return _contents(run.path)


def _models(folder: Path) -> dict[str, Target]:
    run = _run_files(folder)
    step = "checkpoints/step-00000004/"
    model = {
        name.removeprefix(step): content for name, content in run.items() if name.startswith(step)
    }
    weights = {name: model[name] for name in ("config.json", "model.safetensors")}
    plain = json.loads(weights["config.json"])
    del plain["pygpt"]
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(_names(weights["model.safetensors"]), "a.safetensors"),
    }
    return {
        "safetensors and config.json": Target(weights, _load),
        "sharded index": Target(
            {
                "config.json": weights["config.json"],
                "a.safetensors": weights["model.safetensors"],
                "model.safetensors.index.json": json.dumps(index).encode(),
            },
            _load,
            ("model.safetensors.index.json",),
        ),
        "tokenizer.json": Target(
            {
                "config.json": json.dumps(plain).encode(),
                "model.safetensors": weights["model.safetensors"],
                "tokenizer.json": model["tokenizer.json"],
            },
            _load,
            ("tokenizer.json", "config.json"),
        ),
        "run and checkpoint": Target(
            run,
            _start_again,
            (
                "config.toml", "run.json", "metrics.jsonl", f"{step}trainer.json",
                f"{step}optimizer.safetensors", f"{step}config.json",
            ),
        ),
        "list of runs": Target(run, _list_runs, ("config.toml", "metrics.jsonl")),
        "a run's log": Target(
            run | {"comparison.json": _COMPARISON},
            _report,
            ("config.toml", "metrics.jsonl", "run.json", "comparison.json", f"{step}config.json"),
        ),
    }  # fmt: skip


_COMPARISON = json.dumps(
    {
        "run": {"wikitext103": {"perplexity": 30.1, "bits_per_byte": 1.2, "examples": 60}},
        "gpt2": {"wikitext103": {"perplexity": 37.5, "bits_per_byte": 1.1, "examples": 60}},
    }
).encode()


def _names(safetensors: bytes) -> list[str]:
    length = int.from_bytes(safetensors[:8], "little")
    return [name for name in json.loads(safetensors[8 : 8 + length]) if name != "__metadata__"]


def _launch_table(folder: Path) -> None:
    try:
        launch.use_table(folder / "table.json")
    except ValueError:  # the kernels' room, which turns it into an InputError in a command
        return
    finally:
        launch.use_table(None)


# --- configurations, prompts, tasks, requests, logs -----------------------------------------------


def _recipe(folder: Path) -> None:
    config = TrainConfig(**toml_file.read(folder / "a.toml"))
    assert toml_file.read(_written(folder / "b.toml", config.as_toml())) == {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) not in (None, ())
    }
    config.check_shapes()


def _written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def _nanogpt_config(folder: Path) -> None:
    log = LogBuilder(folder, "flags")
    nanogpt.use_config(nanogpt.read_config(folder / "a.py"), log, "a.py")


def _report(folder: Path) -> None:
    """Read a log, judge it, and write all three files of a report."""
    path = folder if (folder / "config.toml").exists() else next(folder.iterdir())
    read_log(path)
    reports = build((path,), Facts())
    language = Language("en")
    render(reports, language)
    text.markdown(reports, language)
    json.dumps(as_fields(reports, language))
    text.show(Console(file=io.StringIO()), reports, language)


def _words(folder: Path) -> None:
    words = (folder / "words").read_bytes().decode("utf-8", "surrogateescape").split("\n")
    normalise(words, TrainConfig.__annotations__ | _types())


@functools.cache
def _types() -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(TrainConfig)


_SERVED = Served("tiny", CHAT, 64, Sampling(), 16)


def _request(chat: bool) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        with contextlib.suppress(RequestError):
            read_job((folder / "body").read_bytes(), _SERVED, chat=chat)

    return read


_REQUEST: dict[str, Any] = {
    "model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.7,
    "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "max_tokens": 8,
    "stop": ["x"], "seed": 1, "n": 1, "user": "me",
}  # fmt: skip


def _others() -> dict[str, Target]:
    recipes = Path(toml_file.__file__).parent / "recipes"
    found = {
        f"recipe {name}": Target({"a.toml": (recipes / f"{name}.toml").read_bytes()}, _recipe)
        for name in preset_names()
    }
    for name, (_, content) in LOGS.items():
        found[f"log {name}"] = Target({name: content.encode()}, _report)
    for name in TASKS:
        found[f"task {name}"] = Target(
            {f"{name}.jsonl": TASK_LINES[name].encode() + b"\n"},
            lambda folder, name=name: task_file.load(get_task(name), folder),  # type: ignore[misc]
        )
    chat = _REQUEST | {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    }
    return found | {
        "nanoGPT's configuration": Target(
            {"a.py": b"batch_size = 12\nbias = False # no\nmax_iters = 5 * 1000\nout = 'x'\n"},
            _nanogpt_config,
        ),
        "prompts.txt": Target(
            {"p.txt": b"Hello\nThe future\n"}, lambda folder: read_prompts(folder / "p.txt")
        ),
        "prompts.jsonl": Target(
            {"p.jsonl": b'{"prompt": "Hello"}\n{"prompt": "two\\nlines", "x": 1}\n'},
            lambda folder: read_prompts(folder / "p.jsonl"),
        ),
        "chat request": Target({"body": json.dumps(chat).encode()}, _request(True)),
        "completion request": Target(
            {"body": json.dumps(_REQUEST | {"prompt": "Hello"}).encode()}, _request(False)
        ),
        "completion request of ids": Target(
            {"body": json.dumps(_REQUEST | {"prompt": [1, 2, 300]}).encode()}, _request(False)
        ),
        "command line": Target(
            {"words": b"--max-steps\n1e3\n--compile\n--data=a:0.7\n--no-bias\n--dtype\nfloat32"},
            _words,
        ),
        "launch table": Target({"table.json": _LAUNCH_TABLE}, _launch_table),
    }


_LAUNCH_TABLE = json.dumps(
    {
        "id": "abc",
        "entries": {
            str(key): dataclasses.asdict(value) for key, value in list(launch.TABLE.items())[:3]
        },
    }
).encode()


@functools.cache
def targets() -> dict[str, Target]:
    """Every target by name. The first call writes the datasets and the run."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        return {**_datasets(Path(name)), **_corpora(), **_models(Path(name)), **_others()}
