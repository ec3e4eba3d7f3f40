"""The commands report and runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pygpt import eval as evaluate
from pygpt import export, report
from pygpt.utils.errors import InputError
from tests.reporting.logs import CONFIG, healthy, write_csv

TINY = (
    "--preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 32 --block-size 32 "
    "--batch-tokens 512 --dropout 0 --device cpu --dtype float32 --compile False "
    "--eval-tokens 2048 --max-steps 20 --eval-interval 10"
).split()


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *map(str, words)])
    report.main()


@pytest.fixture
def log(tmp_path: Path, seed: int) -> Path:
    return write_csv(tmp_path / "mine.csv", healthy(seed))


def test_three_files_beside_the_log(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, log, "--batch-tokens", 65536)
    out = log.parent / "mine-report"
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", "report.json"}
    shown = capsys.readouterr().out
    assert "Is it healthy?" in shown
    assert str(out / "report.html") in shown


def test_the_schema_of_report_json(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, log, "--json", "--batch-tokens", 65536)
    fields = json.loads(capsys.readouterr().out)
    assert set(fields) == {"runs", "findings", "projections", "backtest"}
    for finding in fields["findings"]:
        assert {"id", "verdict", "text", "evidence", "source", "command"} <= finding.keys()
        assert finding["verdict"] in {"good", "note", "problem", "unknown"}
    for projection in fields["projections"]:
        assert projection["low"] <= projection["loss"] <= projection["high"]
        assert projection["method"]
    assert not (log.parent / "mine-report").exists()


def test_nanogpts_configuration_is_read_and_not_run(
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "train_mine.py"
    config.write_text(CONFIG + "open('ran', 'w')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, log, "--json", "--config", config)
    facts = json.loads(capsys.readouterr().out)["runs"][0]["facts"]
    assert (facts["n_layer"], facts["max_steps"], facts["micro_batch"]) == (6, 2000, 16)
    assert not (tmp_path / "ran").exists()


def test_several_runs_have_a_table_of_their_differences(
    run_train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = [run_train("a"), run_train("b", "--learning-rate", "2e-3")]
    call(monkeypatch, *(run.path for run in runs), "--out", tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| learning_rate | 0.001 | 0.002 |" in text
    assert "n_layer" not in text.partition("Differences")[2]


def test_other_runs_beside_it_are_compared_at_equal_tokens(
    run_train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_train("a")
    longer = run_train("b", "--max-steps", "40")
    (longer.path.parent / "not-a-run").mkdir()
    capsys.readouterr()
    call(monkeypatch, longer.path, "--json")
    findings = json.loads(capsys.readouterr().out)["findings"]
    (found,) = (each for each in findings if each["id"] == "equal_tokens")
    assert "At 0.0 M tokens, a stood at" in found["text"]
    assert found["command"].endswith("/b " + str(longer.path.parent / "a"))


def test_gpt2_on_the_same_text_comes_first_where_it_was_evaluated(
    run_train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = run_train("mine")
    figures = {"mine": {"val": {"perplexity": 64.7, "bits_per_byte": None}}}
    figures["gpt2"] = {"val": {"perplexity": 22.6, "bits_per_byte": None}}
    (run.path / "comparison.json").write_text(json.dumps(figures), encoding="utf-8")
    capsys.readouterr()
    call(monkeypatch, run.path)
    assert "How far from GPT-2? 64.7 to 22.6" in capsys.readouterr().out


def test_what_eval_compare_prints_is_read(
    run_train: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of two models that eval itself compares: the run, and a copy of its checkpoint."""
    run = run_train("mine")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "copa.jsonl").write_text('{"query": "It, so", "choices": ["a", "b"], "gold": 0}\n' * 4)
    other = tmp_path / "other"
    export_command(monkeypatch, run.path, "--to", other)
    capsys.readouterr()
    words = [str(run.path), "--compare", str(other), "--tasks", "copa", "--task-data", str(tasks)]
    for flags, figure in (([], "bits per byte"), (words[3:], "accuracy")):
        monkeypatch.setattr(sys, "argv", ["eval", *words[:3], *flags, "--json"])
        evaluate.main()
        printed = capsys.readouterr().out
        (run.path / "comparison.json").write_text(printed, encoding="utf-8")
        call(monkeypatch, run.path, "--json")
        findings = json.loads(capsys.readouterr().out)["findings"]
        (found,) = (each for each in findings if each["id"] == "compared")
        assert figure in found["text"]
        assert str(other) in found["text"]


def export_command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
    export.main()


def test_watching_writes_again_until_the_run_ends(
    run_train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_train("mine")
    lines = run.metrics_file.read_text(encoding="utf-8").splitlines(keepends=True)
    run.metrics_file.write_text("".join(lines[:12]), encoding="utf-8")
    page = run.path / "report.html"

    def go_on(_: float) -> None:
        assert 'http-equiv="refresh"' in page.read_text(encoding="utf-8")
        run.metrics_file.write_text("".join(lines), encoding="utf-8")

    monkeypatch.setattr("time.sleep", go_on)
    with run.claimed():
        call(monkeypatch, run.path, "--watch")
    assert 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")


def test_reporting_imports_no_torch() -> None:
    """Without the package's own imports, which are another matter."""
    package = Path(report.__file__).parent
    program = (
        f"import sys, types; package = types.ModuleType('pygpt'); package.__path__ = ['{package}']"
        "; sys.modules['pygpt'] = package; import pygpt.report, pygpt.runs.__main__"
        "; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name a run directory or a log"),
        ("nowhere", "there is no nowhere"),
        ("{log} --language la", "no language 'la'; there are en"),
        ("{log} --card RTX9", "RTX9"),
        ("{log} --n-layer 0", "n_layer must be at least 1"),
        ("{log} --preset gpt3", "gpt3"),
        ("{log} --n-layer 2 --n-head 3 --n-embd 32", "not divisible"),
        ("{log} --out /proc/none", "another --out"),
    ],
)
def test_bad_input_is_one_line(
    words: str, message: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=message):
        call(monkeypatch, *words.format(log=log).split())


def test_the_list_of_runs(
    run_train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pygpt.runs import __main__ as runs

    run = run_train("mine")
    monkeypatch.setattr(sys, "argv", ["runs", str(run.path.parent)])
    capsys.readouterr()
    runs.main()
    shown = capsys.readouterr().out
    assert "finished" in shown
    assert "20 of 20" in shown
    with run.claimed():
        runs.main()
    assert "training" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["runs", str(run.path / "checkpoints")])
    with pytest.raises(InputError, match="no run in"):
        runs.main()
