"""A small server that stands in for the Hugging Face Hub; huggingface_hub itself talks to it."""

from __future__ import annotations

import contextlib
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves directories as repositories; remembers which files were sent."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.sent: list[str] = []

    @classmethod
    @contextlib.contextmanager
    def serving(cls, root: Path) -> Iterator[Hub]:
        """A server of `root` in a thread."""
        server = cls(root)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        revision = urllib.parse.unquote(revision)
        error = None
        if not (self.server.root / repository).is_dir():
            error = "RepoNotFound"
        elif revision not in ("main", "refs/convert/parquet", COMMIT):
            error = "RevisionNotFound"
        elif not (self.server.root / repository / file).exists():
            error = "EntryNotFound"
        if error:
            self.send_response(404)
            self.send_header("X-Error-Code", error)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = (self.server.root / repository / file).read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{file}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.server.sent.append(f"{repository}/{file}")
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass
