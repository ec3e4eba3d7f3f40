"""The server's routes, and how it starts and ends."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pygpt.inference.engine import Engine, Piece
from pygpt.inference.server import protocol
from pygpt.inference.server.access import SameSite, is_loopback
from pygpt.inference.server.engine_thread import (
    ComputationError,
    EngineThread,
    OverloadedError,
    Submission,
)
from pygpt.inference.server.errors import JSON, RequestError
from pygpt.inference.server.protocol import Job, Served

logger = logging.getLogger(__name__)

MAX_BODY = 1 << 20  # bytes
BODY_SECONDS = 30.0  # a client has to send its body
MAX_CONNECTIONS = 500
RETRY_SECONDS = "2"
PAGE = {"/": ("index.html", "text/html"), "/chat.css": ("chat.css", "text/css"),
        "/chat.js": ("chat.js", "text/javascript")}  # fmt: skip
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def build_app(thread: EngineThread, served: Served, host: str) -> Starlette:
    """The routes of a server that is bound to `host`."""

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [served.description()]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != served.name:
            raise RequestError(
                f"no such model; this server has {served.name!r}",
                status=404, param="model", code="model_not_found",
            )  # fmt: skip
        return JSONResponse(served.description())

    async def chat(request: Request) -> Response:
        return await _complete(request, thread, served, chat=True)

    async def completions(request: Request) -> Response:
        return await _complete(request, thread, served, chat=False)

    routes = [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        *(_page_route(path) for path in PAGE),
    ]
    handlers: dict[Any, Any] = {
        RequestError: _refused,
        HTTPException: _http_error,
        Exception: _failed,
    }
    return Starlette(
        routes=routes,
        middleware=[Middleware(SameSite, host=host)],
        exception_handlers=handlers,
    )


def serve(engine: Engine, served: Served, listener: socket.socket, host: str) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        engine: computes; only this function's thread may use it until the end.
        served: the model's description and defaults.
        listener: from `access.listen`; it is closed at the end.
        host: as `access.listen` had it.
    """
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    if not is_loopback(listener.getsockname()[0]):
        logger.warning(
            "warning: everybody who reaches %s can use the model, and reads and writes without "
            "encryption; leave --host out to serve this machine only", url,
        )  # fmt: skip
    thread = EngineThread(engine)
    config = uvicorn.Config(
        build_app(thread, served, host),
        log_level="warning",
        log_config=None,
        access_log=False,
        http="h11",
        ws="none",
        lifespan="off",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    print(f"{url} has the chat page, {url}/v1 the OpenAI API; Ctrl-C ends", flush=True)
    try:
        _Server(config, thread).run([listener])
    except KeyboardInterrupt:  # uvicorn has ended everything and passes it on
        pass
    finally:
        thread.stop()
        listener.close()
    print("stopped")


class _Server(uvicorn.Server):
    """Ends the replies that are being written before it waits for their connections."""

    def __init__(self, config: uvicorn.Config, thread: EngineThread) -> None:
        super().__init__(config)
        self._thread = thread

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._thread.end_requests()
        await super().shutdown(sockets)


# --- requests and answers -------------------------------------------------------------------------


async def _complete(
    request: Request, thread: EngineThread, served: Served, *, chat: bool
) -> Response:
    try:
        thread.admit()  # before the body is read
        body = await _read_body(request)
        job = await run_in_threadpool(protocol.read_job, body, served, chat=chat)
        submission = thread.submit(job.request)
    except OverloadedError:
        error = RequestError("too many requests; try again soon", status=503, code="overloaded")
        return error.response({"Retry-After": RETRY_SECONDS})
    if job.stream:
        return _EventStream(job, submission)
    try:
        return JSONResponse(job.answer(await _gather(request, submission)))
    except ComputationError:
        raise RequestError("the computation failed", status=500) from None
    finally:
        submission.close()


class _EventStream(StreamingResponse):
    """Server-sent events, until the last piece or until the client goes away."""

    def __init__(self, job: Job, submission: Submission) -> None:
        super().__init__(
            _events(job, submission),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )
        self._submission = submission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._submission.close()


async def _events(job: Job, submission: Submission) -> AsyncIterator[str]:
    n_written = 0
    if (first := job.first_chunk()) is not None:
        yield _event(first)
    try:
        async for piece in submission.pieces():
            n_written += 1
            if piece.text or piece.finish_reason:
                yield _event(job.chunk(piece))
    except ComputationError:
        yield _event(RequestError("the computation failed", status=500).body())
        return
    if job.include_usage:
        yield _event(job.usage_chunk(n_written))
    yield "data: [DONE]\n\n"


def _event(fields: JSON) -> str:
    return f"data: {json.dumps(fields, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _gather(request: Request, submission: Submission) -> list[Piece]:
    """All pieces, unless the client goes away before the last one."""

    async def gather() -> list[Piece]:
        return [piece async for piece in submission.pieces()]

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, watch = asyncio.create_task(gather()), asyncio.create_task(gone())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise _gone()
    finally:
        work.cancel()
        watch.cancel()


def _gone() -> RequestError:
    return RequestError("the client has closed the connection", status=499)


async def _read_body(request: Request) -> bytes:
    """The body, if it is not too large; a larger one is not read to its end."""
    too_large = RequestError(
        f"the body is larger than {MAX_BODY:,} bytes", status=413, code="request_too_large"
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY:
        raise too_large

    async def read() -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise too_large
        return bytes(body)

    try:
        return await asyncio.wait_for(read(), BODY_SECONDS)
    except ClientDisconnect:
        raise _gone() from None
    except asyncio.TimeoutError:
        raise RequestError("the body took too long to arrive", status=408) from None


def _page_route(path: str) -> Route:
    name, media_type = PAGE[path]
    content = (resources.files("pygpt.inference.server") / "page" / name).read_bytes()

    async def page(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return Route(path, page)


async def _refused(request: Request, error: RequestError) -> Response:
    return error.response()


async def _http_error(request: Request, error: HTTPException) -> Response:
    message = f"{error.detail}: {request.method} {request.url.path[:100]}"
    return RequestError(message, status=error.status_code).response(error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return RequestError("internal error", status=500).response()
