"""Errors in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

JSON = dict[str, Any]

_UNREAD = {403, 408, 413, 503}
"""Answers that don't wait for the whole body: the connection is closed, so that none is read."""


class RequestError(Exception):
    """A request that is answered by an error in OpenAI's form."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> JSON:
        """The answer's JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The answer."""
        close = {"Connection": "close"} if self.status in _UNREAD else {}
        return JSONResponse(self.body(), self.status, {**(headers or {}), **close})
