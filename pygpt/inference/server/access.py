"""Where the server listens, and which requests it answers."""

from __future__ import annotations

import errno
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pygpt.inference.server.errors import RequestError
from pygpt.utils.errors import InputError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: a name or an address; "127.0.0.1" is reached from this machine only.
        port: 0 takes a free one.

    Raises:
        InputError: the port is taken or may not be used, or there is no such host.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} of {host} is in use; take another --port, or 0 for a free one"
        else:
            reason = f"can't listen at {host}, port {port}: {error.strerror}"
        raise InputError(reason) from error
    return listener


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


class SameSite:
    """Refuses what a page of another site makes a browser send.

    A name of an attacker that resolves to this machine (DNS rebinding) is recognised by the Host
    header, which then holds that name; addresses, localhost and this server's own names pass. A
    page that calls another site's address has its own site as Origin.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._check(Request(scope)) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
        else:
            await error.response()(scope, receive, send)

    def _check(self, request: Request) -> RequestError | None:
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            return RequestError(f"this server is not {host!r:.60}", status=403, code="wrong_host")
        origin = request.headers.get("origin")
        ours = (f"http://{host.lower()}", f"https://{host.lower()}")
        if origin is not None and origin.lower() not in ours:
            return RequestError(
                f"pages of {origin!r:.60} may not use this server", status=403, code="wrong_origin"
            )
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
