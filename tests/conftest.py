"""What every test shares: fresh random inputs that can be drawn again, and poisoned memory."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from pygpt.runs.run import Run

CHROMIUM_FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,1000"
).split()

if not torch.cuda.is_available():
    # Read where Triton's kernels are defined: without a GPU they run in its interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Have bench/gpu.sh's `timeout` end the GPU's tests like Ctrl-C: with what failed till then."""
    if config.option.markexpr == "gpu":
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # `timeout` signals the process and then its group: the second must not end the summary.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@pytest.fixture
def seed() -> int:
    """A fresh seed for each test, printed with a failure; PYGPT_TEST_SEED draws it again."""
    given = os.environ.get("PYGPT_TEST_SEED")
    value = int(given) if given else int.from_bytes(os.urandom(4), "little")
    print(f"PYGPT_TEST_SEED={value}")
    return value


@pytest.fixture(autouse=True, scope="session")
def poison() -> Iterator[None]:
    """Have torch.empty give NaN (the largest value of integers), so that unwritten memory shows.

    torch fills new memory (torch.utils.deterministic.fill_uninitialized_memory) only while
    deterministic algorithms are asked for; `warn_only`, because some ops have none.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's: neither the cache, nor the terminal, nor settings of pygpt."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patched.setenv("COLUMNS", "80")
        for name in ("FORCE_COLOR", "NO_COLOR", "PYGPT_CPU_LEVEL", "PYGPT_LAUNCH_TABLE"):
            patched.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of bytes: pygpt's own source, which is text that every checkout has."""
    from pygpt import model
    from pygpt.data import writer
    from pygpt.data.corpora.text import TextFiles

    out = tmp_path_factory.mktemp("data") / "source"
    sources = Path(model.__file__).parent
    files = (sources / "model.py", sources / "training" / "trainer.py")
    writer.prepare(TextFiles(files), out, "bytes")
    return out


@pytest.fixture
def run_train(
    request: pytest.FixtureRequest, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    """Run the command in this process: the module's TINY model, further flags, a run directory."""
    from pygpt import train
    from pygpt.runs.run import Run

    def start(out: str, *flags: str) -> Run:
        run = Run(tmp_path / out)
        tiny = request.module.TINY
        named = [] if {"--data", "--resume"} & {*flags} else ["--data", str(data)]
        command = ["train", *tiny, *named, "--out", str(run.path), *flags]
        monkeypatch.setattr(sys, "argv", command)
        train.main()
        return run

    return start


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Headless Chromium, with its console and its requests logged."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="waits for selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("waits for chromium and chromedriver (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    folder = tmp_path_factory.mktemp("chromium")
    for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder)}  # of its crash reports
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver, env=environment)) as started:
        yield started
