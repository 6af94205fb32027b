"""Where an address leads: one server, or several of which one is the primary, as libpq writes them. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_DEFAULT_PORT = 5432
_LARGEST_PORT = 65_535

Host = tuple[str, int]
"""A name or address, or the folder of a Unix socket, and a port."""


def hosts_of(arguments: Mapping[str, Any]) -> tuple[Host, ...]:
    """The servers that `PostgresConfig.connect_arguments` name, in order; empty when they leave it to the driver."""
    if "host" not in arguments:
        return hosts_in(arguments["dsn"])
    host, port = arguments["host"], arguments["port"]
    return ((host, port),) if isinstance(host, str) else tuple(zip(host, port, strict=True))


def hosts_in(dsn: str) -> tuple[Host, ...]:
    """The servers in an address.

    >>> hosts_in("postgresql://user:secret@one:5433,two,[::1]:5434/app")
    (('one', 5433), ('two', 5432), ('::1', 5434))

    Raises:
        ValueError: As `split_hosts` does.
    """
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    listed = parts.netloc.rpartition("@")[2] or query.get("host", [""])[-1]
    return split_hosts(unquote(listed), query.get("port", [""])[-1])


def split_hosts(hosts: str, ports: str = "") -> tuple[Host, ...]:
    """Names with or without ports, and the ports of those without: one for all, or one for each.

    >>> split_hosts("one,two:5433", "5434")
    (('one', 5434), ('two', 5433))

    Raises:
        ValueError: A port is no port, or there is neither one for all nor one for each. Quotes nothing.
    """
    names = hosts.split(",") if hosts else []
    given = [_port(port) if port else _DEFAULT_PORT for port in ports.split(",")]
    if len(given) not in {1, len(names)} and names:
        raise ValueError(f"{len(given)} ports for {len(names)} hosts: give one for all, or one for each")
    fallback = given * len(names) if len(given) == 1 else given
    return tuple(_host(name.strip(), port) for name, port in zip(names, fallback, strict=False))


def _host(text: str, port: int) -> Host:
    if text.startswith("["):
        name, closed, after = text[1:].partition("]")
        if not closed or (after and not after.startswith(":")):
            raise ValueError("an IPv6 address is written [address]:port")
        return name, _port(after[1:]) if after else port
    if text.startswith("/") or text.count(":") > 1:  # a socket's folder, an IPv6 address of a field of its own
        return text, port
    name, colon, own = text.partition(":")
    return name or "localhost", _port(own) if colon else port


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _LARGEST_PORT):
        raise ValueError(f"a port is a number from 1 to {_LARGEST_PORT}")
    return int(text)


def shown(hosts: Sequence[Host]) -> str:
    """For messages, e.g. `one:5433,two:5432`."""
    return ",".join(_shown(name, port) for name, port in hosts) or f"local socket:{_DEFAULT_PORT}"


def _shown(name: str, port: int) -> str:
    return f"local socket:{port}" if name.startswith("/") else f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def wanted_kind(arguments: Mapping[str, Any]) -> str | None:
    """`target_session_attrs` of the arguments or their address, e.g. `read-write`; None when nothing is asked for."""
    asked = arguments.get("target_session_attrs")
    if asked is None and arguments.get("dsn") is not None:
        asked = parse_qs(urlsplit(arguments["dsn"]).query).get("target_session_attrs", [None])[-1]
    return None if asked is None else str(asked)
