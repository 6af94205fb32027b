"""`python -m svcframework_pubsub both`: publishes and listens for real, and says what happens.

Exit codes: 0 all messages came, 1 they did not, 2 wrong arguments.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from svcframework.errors import ServiceFrameworkError
from svcframework_pubsub.default import create_pubsub_client

_BACKENDS = {"memory": ["memory"], "postgres": ["postgres"], "redis": ["redis"], "both": ["postgres", "redis"]}
_CONFIGURED = {"postgres": ("DATABASE_URL", "DATABASE__DSN"), "redis": ("REDIS_URL", "REDIS_HOST", "REDIS__HOST")}
_MESSAGES = [{"thread_id": "abc123", "status": "running"}, "plain text", ["a", "list", 3]]
_PATIENCE = 10.0  # seconds for a message to arrive


def main(arguments: Sequence[str] | None = None) -> int:
    """Test one backend or both; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["both"]
    if len(given) != 1 or given[0] not in _BACKENDS:
        say(f"usage: python -m svcframework_pubsub [{'|'.join(_BACKENDS)}]")
        return 2
    return max(_tested(backend) for backend in _BACKENDS[given[0]])


def say(text: str) -> None:
    """Print a line, at once."""
    print(text, flush=True)  # noqa: T201 - a command's output


def _tested(backend: str) -> int:
    say(f"== {backend}")
    try:
        with _address(backend) as address:
            failures = _exchange(backend, address)
    except ServiceFrameworkError as error:
        failures = [str(error)]
    for failure in failures:
        say(f"   FAILED: {failure}")
    say(f"   {backend}: {'failed' if failures else 'passed'}")
    return 1 if failures else 0


def _exchange(backend: str, address: str | None) -> list[str]:
    """Send messages from this thread to a listener in another one; what went wrong."""
    received: list[object] = []
    arrived, ready, stop = threading.Event(), threading.Event(), threading.Event()

    def on_message(payload: object) -> None:
        received.append(payload)
        if len(received) == len(_MESSAGES):
            arrived.set()

    with create_pubsub_client(backend, address) as client:
        listener = threading.Thread(
            target=client.listen, args=("test_channel", on_message, stop), kwargs={"on_ready": ready.set}, daemon=True
        )
        listener.start()
        if not ready.wait(_PATIENCE):
            stop.set()
            return ["nothing listens: the server can't be reached; see the log above"]
        say("   listening on 'test_channel'")
        began = time.perf_counter()
        refused = [message for message in _MESSAGES if not client.publish("test_channel", message)]
        arrived.wait(_PATIENCE)
        say(f"   {len(received)} of {len(_MESSAGES)} messages came within {time.perf_counter() - began:.3f} s")
        asked = time.perf_counter()
        stop.set()
        listener.join(_PATIENCE)
        say(f"   the listener stopped {time.perf_counter() - asked:.3f} s after its flag was set")
    failures = [f"publish returned False for {message!r}" for message in refused]
    if received != _MESSAGES:
        failures.append(f"sent {_MESSAGES!r}, received {received!r}")
    if listener.is_alive():
        failures.append("the listener did not stop")
    return failures


@contextmanager
def _address(backend: str) -> Iterator[str | None]:
    """Where the server is: configured, or one that is started for this."""
    if backend == "memory" or any(os.environ.get(name) for name in _CONFIGURED[backend]):
        say("   in this process" if backend == "memory" else "   on the configured server")
        yield None
    elif importlib.util.find_spec("svcframework_embedded") is None:
        say(f"   no address is configured ({', '.join(_CONFIGURED[backend])}) and svcframework-embedded isn't installed")
        yield None
    else:
        from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - only here

        from svcframework_embedded import EmbeddedPostgres, EmbeddedValkey, running  # noqa: PLC0415 - an optional plugin

        say("   no address is configured: starting a server of our own")
        server = EmbeddedPostgres() if backend == "postgres" else EmbeddedValkey()
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(running(server)):
            yield server.dsn if isinstance(server, EmbeddedPostgres) else server.url


if __name__ == "__main__":
    sys.exit(main())
