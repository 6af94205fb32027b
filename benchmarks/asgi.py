"""Calling an ASGI application in process, with no client library between."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping

    Application = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]

SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"localhost"), (b"accept", b"*/*")],
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 80),
}


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def requester(app: Application, state: dict[str, Any] | None = None) -> Callable[[], Awaitable[int]]:
    """A coroutine function that makes one request and returns the status.

    Args:
        app: The application.
        state: What its lifespan put into the state.
    """

    async def request() -> int:
        status = 0

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        scope = SCOPE.copy()
        scope["headers"] = [*SCOPE["headers"]]
        scope["state"] = {} if state is None else state.copy()
        await app(scope, _receive, send)
        return status

    return request


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[dict[str, Any]]:
    """The application's lifespan; yields the state that a server would pass to each request."""
    async with app.router.lifespan_context(app) as state:
        yield state or {}
