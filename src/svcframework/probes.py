"""The health port: a small HTTP responder for liveness, readiness and startup. It knows no host and no service."""

from __future__ import annotations

import hmac
import logging
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from anyio.abc import SocketAttribute

from svcframework.health.report import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import SocketStream, TaskStatus

    from svcframework.health import HealthMonitor, HealthReport

_MAX_REQUEST: Final = 8192  # bytes of request line and headers
_MAX_REQUESTS: Final = 256  # at the same time; who comes beyond that waits
_READ_TIMEOUT: Final = 2.0  # seconds for a whole request, however slowly it arrives
_WORDS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


async def serve_probes(
    monitor: HealthMonitor,
    port: int,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Answer `GET /livez`, `/readyz` and `/startupz` until cancelled; all that is known at `/healthz`, with the token.

    Every answer is read from what the monitor remembers: none causes a check, so each costs the same.

    Args:
        monitor: Whose results are told.
        port: 0 lets the system choose.
        host: The address to listen on; `0.0.0.0` for an orchestrator's probes from outside.
        token: Who sends `Authorization: Bearer <token>` sees the details; without one nobody does.
        task_status: Is told the port once it is open.

    Raises:
        OSError: The port is taken or not allowed.
    """
    listeners = await anyio.create_tcp_listener(local_port=port, local_host=host)
    responder = _Responder(monitor, token)
    async with listeners:
        task_status.started(int(listeners.extra(SocketAttribute.local_port)))  # noqa: S610 - anyio's, not Django's
        await listeners.serve(responder.answer)


class _Responder:
    """Answers one request per connection."""

    def __init__(self, monitor: HealthMonitor, token: str | None) -> None:
        self._token = None if token is None else f"bearer {token}".encode()
        self._limit = anyio.CapacityLimiter(_MAX_REQUESTS)
        self._probes: dict[bytes, Callable[[], HealthReport]] = {
            b"/livez": monitor.liveness,
            b"/readyz": monitor.readiness,
            b"/startupz": monitor.startup,
        }
        self._details = monitor.readiness

    async def answer(self, stream: SocketStream) -> None:
        """Read, answer, hang up. Whatever a client does, it ends within seconds and harms nobody else."""
        try:
            async with stream, self._limit:
                with anyio.move_on_after(_READ_TIMEOUT) as timeout:
                    request = await _read(stream)
                    reply = _reply(400) if request is None else self._reply_to(request)
                if timeout.cancelled_caught:
                    reply = _reply(408)
                with anyio.move_on_after(_READ_TIMEOUT):
                    await stream.send(reply)
                    await stream.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):  # the client has gone
            return

    def _reply_to(self, request: bytes) -> bytes:
        if len(request) > _MAX_REQUEST:
            return _reply(431)
        lines = request.split(b"\r\n")
        words = lines[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, target, version
            return _reply(400)
        method, target = words[0], words[1].partition(b"?")[0]
        if target not in self._probes and target != b"/healthz":
            return _reply(404)
        if method not in {b"GET", b"HEAD"}:
            return _reply(405)
        try:
            status, body = self._look(target, lines)
        except Exception:  # a boundary: a broken check must not close the port
            logging.getLogger("svcframework").exception("the probe %s failed", target.decode("ascii", "replace"))
            return _reply(500)
        return _reply(status, body, is_head=method == b"HEAD")

    def _look(self, target: bytes, lines: list[bytes]) -> tuple[int, bytes]:
        if target in self._probes:
            report = self._probes[target]()
            return report.status_code, msgspec.json.encode(report.public_view())
        if not self._may_see_details(lines):
            return 401, b""
        report = self._details()
        return report.status_code, msgspec.json.encode(report.details_view())

    def _may_see_details(self, lines: list[bytes]) -> bool:
        if self._token is None:
            return False
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"authorization":
                scheme, _, secret = value.strip().partition(b" ")
                return hmac.compare_digest(scheme.lower() + b" " + secret.strip(), self._token)
        return False


async def _read(stream: SocketStream) -> bytes | None:
    """A request up to its empty line; longer than allowed when it is too long; None when the client hung up."""
    request = b""
    while b"\r\n\r\n" not in request and len(request) <= _MAX_REQUEST:
        try:
            request += await stream.receive(_MAX_REQUEST)
        except anyio.EndOfStream:
            return None
    return request


def _reply(status: int, body: bytes = b"", *, is_head: bool = False) -> bytes:
    head = [
        f"HTTP/1.1 {status} {_WORDS[status]}",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status == 401:  # noqa: PLR2004 - HTTP wants to know what would be allowed
        head.append("WWW-Authenticate: Bearer")
    if status == 405:  # noqa: PLR2004 - likewise
        head.append("Allow: GET, HEAD")
    return "\r\n".join([*head, "", ""]).encode("ascii") + (b"" if is_head else body)
