"""open_link: connects and greets. It raises the errors of the network and `Refusal`; who asks makes them ours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from svcframework_redis.address import Address
from svcframework_redis.link import Link, LinkLostError, Refusal, pack_all


async def open_link(
    address: Address,
    make_link: Callable[[], Link],
    *,
    name: str,
    timeout: float,  # noqa: ASYNC109 - it is kept here
) -> Link:
    """A link that the server has welcomed.

    Args:
        address: Where, and with which credentials.
        make_link: Makes a fresh one.
        name: What CLIENT LIST shows.
        timeout: Seconds for everything.

    Raises:
        TimeoutError: It took too long.
        OSError: There is nobody, or a name leads nowhere.
        Refusal: The server didn't accept the credentials or the database.
        LinkLostError: It hung up.
    """
    link: Link | None = None
    greeting = _greeting(address, name)
    try:
        async with asyncio.timeout(timeout):
            link = await _connect(address, make_link)
            replies = await link.request_many(pack_all(greeting), len(greeting))
    except BaseException:
        if link is not None:
            link.abort()
        raise
    refused = next((reply for reply in replies if isinstance(reply, Refusal)), None)
    if refused is not None:
        link.abort()
        raise refused
    if not link.is_open:
        raise LinkLostError("the server closed the connection")
    return link


async def _connect(address: Address, make_link: Callable[[], Link]) -> Link:
    loop = asyncio.get_running_loop()
    made: list[Link] = []

    def make() -> Link:
        made.append(make_link())
        return made[0]

    try:
        if address.path is not None:
            transport, link = await loop.create_unix_connection(make, address.path)
        else:
            name = address.host if address.tls is not None else None
            transport, link = await loop.create_connection(
                make, address.host, address.port, ssl=address.tls, server_hostname=name
            )
    except BaseException:
        for link in made:  # TLS begins after the connection was made
            link.abort()
        raise
    plug: Any = transport.get_extra_info("socket")
    if address.path is None and plug is not None:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return link


def _greeting(address: Address, name: str) -> list[tuple[str, ...]]:
    """HELLO speaks for the credentials as well: a server older than Redis 6 refuses it."""
    credentials = ("AUTH", address.username or "default", address.password) if address.password is not None else ()
    naming = ("SETNAME", name) if name else ()
    hello = ("HELLO", "3", *credentials, *naming)
    return [hello, ("SELECT", str(address.database))] if address.database else [hello]
