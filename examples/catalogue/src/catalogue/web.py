"""`python -m catalogue.web`: the catalogue as a web application, with a page that shows live what happens in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio
import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from catalogue.container import PLUGINS, CatalogueContainer
from catalogue.ingest import IngestService
from catalogue.live import LiveFeed, Viewer
from catalogue.packages import Hit
from catalogue.page import HEADERS, PAGE
from catalogue.search import SearchService
from svcframework import ServiceHost, configure_logging, providers
from svcframework.errors import ExternalServiceError
from svcframework.integrations.fastapi import Injected, setup

BEAT = 5.0  # seconds after which a silent page is told that we are still here
PATIENCE = 5.0  # seconds that a browser may take to accept a message
LOCAL = ["127.0.0.1", "localhost"]

POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


class WebContainer(CatalogueContainer):
    """The catalogue, and what its page shows."""

    live_feed = providers.Service(LiveFeed)


host = ServiceHost(WebContainer, plugins=PLUGINS)
app = FastAPI(lifespan=host.lifespan, docs_url=None, redoc_url=None)  # those pages load scripts from elsewhere
app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)  # another site's name that leads here is refused
setup(app, host)


@app.get("/")
def page() -> HTMLResponse:
    """The page: one file, no request but its WebSocket."""
    return HTMLResponse(PAGE, headers=HEADERS)


@app.get("/search")
async def search(q: str, finder: Injected[SearchService]) -> list[Hit]:
    """The packages that have these words."""
    return await finder.search(q)


@app.post("/ingest")
async def ingest(request: Request, service: Injected[IngestService]) -> Response:
    """Read what is installed, now."""
    if not is_from_our_page(request.headers):
        return JSONResponse({"error": "not from this page"}, status_code=403)
    try:
        return JSONResponse({"packages": await service.ingest()})
    except ExternalServiceError:
        return JSONResponse({"error": "the database is away"}, status_code=503)


@app.websocket("/live")
async def live(websocket: WebSocket, feed: Injected[LiveFeed], epoch: str = "", after: int = 0) -> None:
    """Everything that happens, as it happens, until the browser or the application goes."""
    if not is_from_our_page(websocket.headers):
        await websocket.close(POLICY_VIOLATION)
        return
    if feed.viewers >= feed.config.max_viewers:
        await websocket.close(TRY_AGAIN_LATER)
        return
    await websocket.accept()
    async with feed.watch(epoch=epoch, after=after) as viewer, anyio.create_task_group() as tasks:
        tasks.start_soon(_wait_until_gone, websocket, tasks.cancel_scope)
        await _show(websocket, viewer, feed)
        tasks.cancel_scope.cancel()


async def _show(websocket: WebSocket, viewer: Viewer, feed: LiveFeed) -> None:
    """Send what there is, and a beat when there is nothing; a browser that doesn't take it is hung up on."""
    while not viewer.is_closed:
        entries: list[dict[str, Any]] = []
        with anyio.move_on_after(BEAT):
            entries = await viewer.take()
        entries.append({"kind": "beat", "viewers": feed.viewers})
        with anyio.move_on_after(PATIENCE) as patience:
            await websocket.send_text(json.dumps(entries))
        if patience.cancelled_caught:
            return


async def _wait_until_gone(websocket: WebSocket, scope: anyio.CancelScope) -> None:
    """End everything when the browser has gone; what it says meanwhile means nothing."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
    scope.cancel()


def is_from_our_page(headers: Mapping[str, str]) -> bool:
    """Whether no other site is behind a request: browsers say where a page comes from, programs needn't."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m catalogue.web", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (default 8000)")
    port: int = parser.parse_args().port
    configure_logging("warning")
    print(f"http://127.0.0.1:{port}", flush=True)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        ws_max_size=1024,  # the page sends nothing
        ws_ping_interval=5.0,
        ws_ping_timeout=5.0,
        timeout_graceful_shutdown=3,  # a browser that has vanished is not waited for any longer
    )


if __name__ == "__main__":
    main()
