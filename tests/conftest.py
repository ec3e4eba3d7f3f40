"""What every test shares: caches of its own, fresh random inputs, poisoned memory."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
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


CACHES = {
    "XDG_CACHE_HOME": "pygpt",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "HF_HOME": "huggingface",
    "MPLCONFIGDIR": "matplotlib",
    "WANDB_CONFIG_DIR": "wandb",
}
"""Variable of each cache that pygpt or a library keeps for the user → its folder while testing."""

USERS = (
    "FORCE_COLOR",
    "NO_COLOR",
    "PYGPT_CPU_LEVEL",
    "PYGPT_LAUNCH_TABLE",
    "HF_ENDPOINT",
    "HF_TOKEN",
)
TERMINATED = 128 + signal.SIGTERM


def pytest_configure(config: pytest.Config) -> None:
    """Nothing of the user's: neither caches, nor the terminal, nor settings. SIGTERM is Ctrl-C.

    Libraries read some of these variables when they are imported: test modules do that soon.
    """
    caches = Path(tempfile.mkdtemp(prefix="pygpt-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(caches, ignore_errors=True))
    os.environ |= {name: str(caches / folder) for name, folder in CACHES.items()}
    os.environ["COLUMNS"] = "80"
    for name in USERS:
        os.environ.pop(name, None)
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # `timeout` signals the process and then its group: the second must not end the summary.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """End the tests where one ends by SIGTERM: pygpt's own handler may have been in force."""
    yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, SystemExit) and error.code == TERMINATED:
        item.session.shouldstop = "SIGTERM"


@pytest.fixture
def seed() -> int:
    """A fresh seed for each test, printed with a failure; PYGPT_TEST_SEED draws it again."""
    given = os.environ.get("PYGPT_TEST_SEED")
    value = int(given) if given else int.from_bytes(os.urandom(4), "little")
    print(f"PYGPT_TEST_SEED={value}")
    return value


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread: small steps are faster so, far more where cores are shared,
    and GEMMs on more threads may sum in another order.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def poison() -> Iterator[None]:
    """Have torch.empty give NaN (the largest value of integers), so that unwritten memory shows.

    torch fills new memory (torch.utils.deterministic.fill_uninitialized_memory) only while
    deterministic algorithms are asked for; `warn_only`, because some ops have none.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


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
