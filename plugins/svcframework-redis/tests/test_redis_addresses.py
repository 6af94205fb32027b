"""Every kind of address leads to a working service: TLS, unix sockets, IPv6, databases, names; on both event loops."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from urllib.parse import unquote, urlsplit

import pytest

from svcframework.errors import ConfigurationError, ConnectionFailedError
from svcframework_embedded import EmbeddedValkey, EmbeddedValkeyConfig, running
from svcframework_redis import RedisConfig, RedisService


async def works(config):
    """Start, ask, listen and stop; what CLIENT LIST shows of the service."""
    service = RedisService(config)
    await service.on_startup()
    try:
        got = asyncio.Event()
        async with service.subscriber(lambda *_: got.set()) as subscriber:
            await subscriber.subscribe("news")
            await service.publish("news", "x")
            async with asyncio.timeout(10):
                await got.wait()
        words = [str(n).encode() for n in range(20)]
        assert words == await asyncio.gather(*(service.execute("ECHO", word) for word in words))
        assert await service.execute("BLPOP", "none", 0.01) is None
        assert await service.health_check()
        return (await service.execute("CLIENT", "INFO")).decode()
    finally:
        await service.on_shutdown()


def password_of(valkey):
    return unquote(urlsplit(valkey.url).password)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for localhost that signs itself, and its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl makes the certificate, and isn't installed")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([program, "req", "-x509", *kind, *names, *files], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@contextlib.asynccontextmanager
async def relayed(port, listen, tls=None):
    """A port on which another server is reached, through TLS if wanted."""
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)

    async def copy(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, back), copy(there, writer))
        for one in (writer, back):
            with contextlib.suppress(OSError):
                await one.wait_closed()

    async with await asyncio.start_server(relay, listen, 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_tls_is_verified(valkey, certificate, loop_name):
    """A certificate that is trusted works, one that isn't fails, and what is switched off isn't looked at."""
    run = asyncio.run if loop_name == "asyncio" else pytest.importorskip("uvloop").run

    async def check():
        async with relayed(valkey.port, "127.0.0.1", certificate) as port:
            url = f"rediss://:{password_of(valkey)}@localhost:{port}/0"
            await works(RedisConfig(url=f"{url}?ssl_ca_certs={certificate[0]}"))
            await works(RedisConfig(url=f"{url}?ssl_cert_reqs=none"))
            with pytest.raises(ConnectionFailedError, match="certificate verify failed"):
                await works(RedisConfig(url=url))
            with pytest.raises(ConnectionFailedError, match=r"certificate|match"):
                await works(RedisConfig(url=f"{url.replace('localhost', '127.0.0.1')}?ssl_ca_certs={certificate[0]}"))
            service = RedisService(RedisConfig(url=f"{url}?ssl_ca_certs={certificate[0]}"))
            await service.on_startup()
            assert await service.client.ping()
            await service.on_shutdown()

    run(check())


async def test_missing_certificate_is_a_configuration_error():
    """A file that isn't there is told at the start, by the service's name."""
    with pytest.raises(ConfigurationError, match="can't use TLS"):
        await RedisService(RedisConfig(url="rediss://localhost/0?ssl_ca_certs=/nowhere.pem")).on_startup()


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_unix_socket(loop_name):
    """A path instead of host and port, with a database."""
    run = asyncio.run if loop_name == "asyncio" else pytest.importorskip("uvloop").run

    async def check():
        config = EmbeddedValkeyConfig(transport="unix", database=3)
        async with running(EmbeddedValkey(config), restart=False) as server:
            assert " db=3 " in await works(RedisConfig(url=server.url))

    run(check())


async def test_ipv6_address(valkey):
    """An address in brackets."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        async with relayed(valkey.port, "::1") as port:
            await works(RedisConfig(url=f"redis://:{password_of(valkey)}@[::1]:{port}/0"))
    except OSError as error:
        if isinstance(error, ConnectionFailedError):
            raise
        pytest.skip("this machine has no ::1")


async def test_database_user_and_name(valkey):
    """The connection greets with all that was configured."""
    config = RedisConfig(
        url=f"redis://default:{password_of(valkey)}@127.0.0.1:{valkey.port}/5", client_name="orders-api"
    )
    shown = await works(config)
    assert " db=5 " in shown
    assert " name=orders-api " in shown
    assert " resp=3 " in shown


async def test_name_that_leads_nowhere():
    """A failure to look a name up is a connection error that says to try again."""
    with pytest.raises(ConnectionFailedError, match=r"nowhere\.invalid") as caught:
        await RedisService(RedisConfig(url="redis://:canary-7Q@nowhere.invalid/0")).on_startup()
    assert caught.value.retryable
    assert "canary" not in str(caught.value)


async def test_database_that_is_none(valkey):
    """The server's refusal of the greeting arrives as an error of ours."""
    from svcframework.errors import DatabaseError

    with pytest.raises(DatabaseError, match="out of range"):
        await RedisService(RedisConfig(url=valkey.url.replace("/0", "/99999"))).on_startup()


async def test_values_stay_out_of_errors(redis):
    """Whatever the server quotes of a command, keys and values among it, is left out."""
    from svcframework.errors import ServiceFrameworkError

    commands = [
        ("canary-7Q",),
        ("SET", "canary-7Q-key", "canary-7Q", "canary-7Q-option"),
        ("CONFIG", "SET", "canary-7Q", "canary-7Q-value"),
        ("EVAL", "return redis.error_reply('bad ' .. ARGV[1])", 0, "canary-7Q"),
        ("EVAL", "error(ARGV[1])", 0, b"canary-7Q"),
        ("OBJECT", "canary-7Q-sub", "k"),
    ]
    for command in commands:
        for call in (redis.execute(*command), redis.execute_many([("PING",), command]), redis.execute(*command)):
            with pytest.raises(ServiceFrameworkError) as caught:
                await call
            shown = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
            assert "canary" not in shown.lower().replace(command[0].lower(), "")
