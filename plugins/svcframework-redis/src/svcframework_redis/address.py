"""Address: where Redis is and how to greet it, read from a URL. No I/O."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from redis.asyncio.connection import parse_url

Kind = Literal["server", "sentinel", "cluster"]

_FORM = re.compile(
    r"(?P<scheme>rediss?|unix)(?:\+(?P<kind>sentinel|cluster))?://(?:(?P<user>[^@/?]*)@)?(?P<hosts>[^/?#]*)(?P<rest>.*)",
    re.DOTALL,
)
_HOST = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d{1,5}))?")
_PORTS: Mapping[Kind, int] = {"server": 6379, "cluster": 6379, "sentinel": 26379}


@dataclass(frozen=True, slots=True)
class Address:
    """Where one server is, and what it wants to hear first."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """A unix socket; it replaces host and port."""
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/{self.database}"

    def at(self, host: str, port: int) -> Address:
        """The same greeting at another place."""
        return replace(self, host=host, port=port, path=None)


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL leads to: one server, the master that sentinels know, or a cluster."""

    kind: Kind
    places: tuple[tuple[str, int], ...]
    """Hosts and ports: of the server, of the sentinels, or of some of the cluster's nodes."""
    address: Address
    """How to greet a server; its host and port are those of the first place."""
    url: str = field(repr=False)
    """The first place as an ordinary URL, for redis-py."""
    master: str = ""
    """What the sentinels call it."""

    def __str__(self) -> str:
        if self.kind == "server":
            return str(self.address)
        places = ",".join(f"{host}:{port}" for host, port in self.places)
        return f"{self.master} by {places}" if self.kind == "sentinel" else f"cluster {places}"


def read_target(url: str, *, username: str | None = None, password: str | None = None) -> Target:
    """What a URL says; the other credentials count where it holds none.

    Raises:
        ValueError: It isn't of one of the forms. The text of the error doesn't show it.
    """
    form = _FORM.fullmatch(url)
    if form is None:
        raise ValueError("not of the form redis://user:password@host:port/db")
    kind: Kind = form["kind"] or "server"  # type: ignore[assignment]  # the pattern allows no other
    places = _places(form["hosts"], kind) if form["scheme"] != "unix" else (("localhost", 6379),)
    rest, master = form["rest"], ""
    if kind == "sentinel":
        path, mark, query = rest.partition("?")
        _, master, *database = [*path.split("/", 2), ""][:3] if path.count("/") else ["", "", ""]
        if not master:
            raise ValueError("not of the form redis+sentinel://host:port,host:port/master/db")
        rest = f"/{database[0] if database else ''}{mark}{query}"
    user = f"{form['user']}@" if form["user"] else ""
    host, port = places[0]
    where = form["hosts"] if form["scheme"] == "unix" else f"{f'[{host}]' if ':' in host else host}:{port}"
    plain = f"{form['scheme']}://{user}{where}{rest}"
    address = _address(plain, username, password)
    return Target(kind=kind, places=places, address=address, url=plain, master=master)


def _places(hosts: str, kind: Kind) -> tuple[tuple[str, int], ...]:
    names = hosts.split(",")
    if kind == "server" and len(names) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    found = []
    for name in names:
        place = _HOST.fullmatch(name) if name else None
        if place is None and (name or kind != "server"):
            raise ValueError("not of the form redis://user:password@host:port/db")
        port = int((place and place["port"]) or _PORTS[kind])
        if not 0 < port < 65536:  # noqa: PLR2004 - what a port can be
            raise ValueError("a port is a number from 1 to 65535")
        try:
            name.encode("idna")
        except UnicodeError as error:
            raise ValueError("a host name has parts of 1 to 63 characters") from error
        found.append(((place["six"] or place["name"]) if place else "localhost", port))
    return tuple(found)


def _address(url: str, username: str | None, password: str | None) -> Address:
    urlsplit(url).port  # noqa: B018 - raises what redis-py would raise later, when it connects
    try:
        found: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:  # its text may quote a part of the address
        raise ValueError("not of the form redis://user:password@host:port/db") from error
    return Address(
        host=found.get("host", "localhost"),
        port=found.get("port", 6379),
        path=found.get("path") if url.startswith("unix:") else None,
        database=int(found.get("db", 0)),
        username=found.get("username") or username,
        password=found.get("password") or password,
        tls=_tls(found) if url.startswith("rediss:") else None,
    )


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    """The context that redis-py's own options in the URL describe; verified unless they say otherwise."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
    if options.get("ssl_cert_reqs") == "none" or str(options.get("ssl_check_hostname", True)).lower() in {"false", "0"}:
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.verify_mode = ssl.CERT_NONE
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), options.get("ssl_password"))
    return context
