"""Findings: run B's table, faults one at a time, and healthy runs without a false alarm."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pygpt import report as report_command
from pygpt.reporting.build import RunReport, build
from pygpt.reporting.findings.finding import Finding
from pygpt.reporting.language import Language
from pygpt.reporting.runlog import Facts
from tests.reporting.logs import BATCH, FAULTS, STEPS, VOCABULARY, healthy, write_csv

TINY = (
    "--n-layer 1 --n-head 2 --n-embd 32 --block-size 32 --batch-tokens 512 --warmup-steps 10 "
    "--eval-interval 20 --eval-tokens 4096 --device cpu --dtype float32 --compile False "
    "--preset shakespeare-char --dropout 0 --learning-rate 2e-3 --min-lr 2e-4"
).split()

RUN_B = """step,train,validation
0,10.88,10.88
500,5.86,5.86
1000,4.93,4.95
2000,4.46,4.48
3000,4.30,4.32
4000,4.22,4.24
5000,4.16,4.19
6000,4.14,4.17
"""


def facts(**values: Any) -> Facts:
    return Facts(**values, sources=dict.fromkeys(values, "test"))


def one(report: RunReport, name: str) -> Finding:
    return next(finding for finding in report.findings if finding.id == name)


def problems(report: RunReport) -> set[str]:
    return {finding.id for finding in report.findings if finding.verdict == "problem"}


def run_b(path: Path, **more: Any) -> RunReport:
    path.write_text(RUN_B, encoding="utf-8")
    shape = {"n_layer": 12, "n_head": 12, "n_embd": 384, "batch_tokens": 524288}
    (report,) = build((path,), facts(**shape, **more))
    return report


def test_run_b_has_the_width_of_another_model(tmp_path: Path) -> None:
    report = run_b(tmp_path / "b.csv")
    text = Language()(one(report, "width").text)
    assert problems(report) == {"width"}
    assert "12 layers and 12 heads are those of GPT-2 small, 384 wide is not (768)" in text
    assert "40.6 M, not of 124 M" in text  # 40.56 M


def test_run_b_still_falls_and_would_reach_what_its_author_expected(tmp_path: Path) -> None:
    report = run_b(tmp_path / "b.csv")
    assert "still falling" in Language()(one(report, "trend").text)
    first, second = report.subject.outlook.projections
    assert (first.steps, second.steps) == (12000, 20000)
    # Its author expected 4.0 to 4.05 with 12,000 to 20,000 steps.
    assert second.low < 4.05 < first.high
    assert 4.0 < second.loss < first.loss < 4.15


RUN_A = "step,val_loss\n0,10.83\n20000,4.6\n"
"""The reported range of validation perplexity is 80 to 120: a loss of 4.38 to 4.79."""


def test_run_a_typed_as_its_last_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(RUN_A, encoding="utf-8")
    words = ["--preset", "owt-30m", "--corpus", "openwebtext", "--card", "RTX 4070", "--json"]
    monkeypatch.setattr(sys, "argv", ["report", str(path), *words, "--steps", "100000"])
    report_command.main()
    fields = json.loads(capsys.readouterr().out)
    found = {finding["id"]: finding for finding in fields["findings"]}
    assert not [each for each in found.values() if each["verdict"] == "problem"]
    assert "29.9 M without position embeddings" in found["model"]["text"]
    assert "0.66 B tokens" in found["tokens"]["text"]
    assert "perplexity 99.5; GPT-2 small has 3.12 on OpenWebText" in found["gpt2"]["text"]
    assert "a law needs 5" in found["projection"]["text"]  # one row: nothing is projected
    assert fields["projections"] == []


def test_run_a_with_its_curve_is_projected_to_80_000_further_steps(tmp_path: Path) -> None:
    """A power law through its plateau: the author expected a perplexity below 60 there."""
    path = tmp_path / "a.csv"
    rows = [f"{step},{3.9 + 0.7 * (step / 20000) ** -0.5:.3f}" for step in range(2000, 20001, 2000)]
    path.write_text("step,val_loss\n" + "\n".join(rows) + "\n", encoding="utf-8")
    shape = {"n_layer": 6, "n_head": 6, "n_embd": 384, "batch_tokens": 32768}
    (report,) = build((path,), facts(**shape), (100_000,))
    (there,) = report.subject.outlook.projections
    assert there.low < 3.9 + 0.7 * 5**-0.5 < there.high
    assert there.loss == pytest.approx(4.213, abs=0.02)


def test_no_interval_goes_below_zero_and_no_such_loss_is_projected(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    loss = [3.0, 2.2, 1.5, 0.9, 0.5, 0.2, 0.05]
    rows = [f"{10 * i + 10},{value}" for i, value in enumerate(loss)]
    path.write_text("step,val_loss\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (report,) = build((path,), facts(batch_tokens=512))
    outlook = report.subject.outlook
    assert outlook.refused or outlook.projections
    for each in (*outlook.projections, *outlook.backtests):
        assert each.low >= 0


def nanogpt_log(path: Path) -> Path:
    lines = ["tokens per iteration will be: 524,288", "number of parameters: 40.56M"]
    for step in range(200):
        if step % 50 == 0:
            lines.append(f"step {step}: train loss 5.0000, val loss 5.{99 - step // 5:02d}00")
        loss = 10.88 / (1 + step / 100)
        lines.append(f"iter {step}: loss {loss:.4f}, time 4300.10ms, mfu {11.5:.2f}%")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_nanogpts_mfu_divides_by_an_a100(tmp_path: Path) -> None:
    path = nanogpt_log(tmp_path / "out.txt")
    (report,) = build((path,), facts(card="RTX 4070", n_layer=12, n_head=12, n_embd=384))
    values = one(report, "nanogpt_mfu").text.values
    assert values["rate"] == pytest.approx(0.115 * 312)  # TFLOP/s
    assert values["share"] == pytest.approx(0.115 * 312 / 58.3)  # 61.5 %


def judged(path: Path) -> RunReport:
    planned = facts(
        batch_tokens=BATCH,
        vocab_size=VOCABULARY,
        n_layer=6,
        n_head=6,
        n_embd=384,
        max_steps=STEPS,
    )
    (report,) = build((path,), planned)
    return report


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_found_and_nothing_else(fault: str, seed: int, tmp_path: Path) -> None:
    log = healthy(seed)
    FAULTS[fault](log)
    assert problems(judged(write_csv(tmp_path / "log.csv", log))) == {fault}


def test_a_resumed_run_that_repeats_steps(seed: int, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "log.csv", healthy(seed))
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    lines = lines[:1500] + lines[1000:]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    report = judged(path)
    assert problems(report) == {"restarts"}
    assert one(report, "restarts").text.values["lost"] == 500


@pytest.mark.parametrize("repeat", range(5))
def test_a_healthy_log_gives_no_alarm(repeat: int, seed: int, tmp_path: Path) -> None:
    assert not problems(judged(write_csv(tmp_path / "log.csv", healthy(seed + repeat))))


@pytest.fixture(scope="module")
def text_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a megabyte of this Python's standard library, by bytes."""
    from pygpt.data import writer
    from pygpt.data.corpora.text import TextFiles

    files = sorted(Path(os.__file__).parent.glob("*.py"))
    out = tmp_path_factory.mktemp("data") / "stdlib"
    writer.prepare(TextFiles(tuple(files[:60])), out, "bytes")
    return out


@pytest.mark.parametrize(
    "flags",
    ["--max-steps 150", "--max-steps 120 --batch-tokens 2048", "--max-steps 100 --n-layer 2"],
)
def test_a_real_short_run_gives_no_alarm(
    flags: str, text_data: Path, run_train: Callable[..., Any]
) -> None:
    run = run_train("run", *flags.split(), "--data", str(text_data))
    (report,) = build((run.path,), Facts())
    assert not problems(report), [dataclasses.asdict(f) for f in report.findings]
    assert report.log.finished
    assert one(report, "first_loss").verdict == "good"


@pytest.mark.skipif(
    "PYGPT_TEST_DATA" not in os.environ, reason="waits for PYGPT_TEST_DATA, a folder of real logs"
)
def test_llmcs_log_is_healthy_and_at_3_27(tmp_path: Path) -> None:
    log = Path(os.environ["PYGPT_TEST_DATA"]) / "curves" / "gpt2-124m-llmc-fineweb10b.log"
    shape = {"n_layer": 12, "n_head": 12, "n_embd": 768, "batch_tokens": 524288}
    (report,) = build((log,), facts(**shape))
    assert not problems(report)
    assert report.log.final_loss == 3.2722
    assert one(report, "equal_tokens").text.values["gap"] == pytest.approx(0, abs=1e-4)
    half, three_quarters = report.subject.outlook.backtests
    assert abs(half.error) < 0.01  # 3.280 for a true 3.272 was found by hand
    assert abs(three_quarters.error) < 0.005
    assert half.low < half.actual < half.high
