"""Sentinels and clusters, by URL, on real ones: what works as on one server, and what is followed when it moves."""

import asyncio
import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from svcframework.errors import ConnectionFailedError, ExternalServiceError, ServiceTimeoutError
from svcframework_embedded import EmbeddedValkey, EmbeddedValkeyConfig, running
from svcframework_redis import CacheConfig, CacheService, RedisConfig, RedisService, get_redis_client
from svcframework_redis.caching.keys import slot_of

PASSWORD = "canary-7Q"


async def until(condition):
    """Wait for something that happens by itself; half a minute means that it doesn't."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


def server(**settings):
    """A server with a known password, for others of its kind to use."""
    given = {name.replace("_", "-"): value for name, value in settings.items()}
    common = {"masterauth": PASSWORD, "repl-diskless-sync-delay": "0"}  # five seconds otherwise
    return running(EmbeddedValkey(EmbeddedValkeyConfig(password=PASSWORD, settings={**common, **given})), restart=False)


@contextlib.asynccontextmanager
async def client(port, **settings):
    """A service on one server."""
    service = RedisService(RedisConfig(url=f"redis://:{PASSWORD}@127.0.0.1:{port}/0", **settings))
    await service.on_startup()
    try:
        yield service
    finally:
        await service.on_shutdown()


# --- sentinels ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sentinel(program, folder, port, master_port):
    """A sentinel on a port, watching one master."""
    folder.mkdir()
    config = folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass sentinel-canary\n"
        f"sentinel monitor main 127.0.0.1 {master_port} 1\nsentinel auth-pass main {PASSWORD}\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
    )
    process = subprocess.Popen([program, config, "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def free_port():
    import socket

    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        return plug.getsockname()[1]


async def test_failover_is_followed(tmp_path):
    """When the master dies, writes and subscribers go on with the new one; in between errors say to try again."""
    async with contextlib.AsyncExitStack() as stack:
        master = await stack.enter_async_context(server())
        replica = await stack.enter_async_context(server(replicaof=f"127.0.0.1 {master.port}"))
        async with client(master.port) as direct:
            await until(lambda: _has(direct, "state=online", "INFO", "replication"))
        port = free_port()
        program = str(Path(f"/proc/{master.pid}/exe").resolve()) if Path("/proc").is_dir() else shutil.which("valkey")
        if program is None:
            pytest.skip("the program can't be found here")
        stack.enter_context(sentinel(program, tmp_path / "sentinel", port, master.port))
        watcher = RedisService(RedisConfig(url=f"redis://:sentinel-canary@127.0.0.1:{port}/0"))
        await until(lambda: _starts(watcher))
        await watcher.execute("SENTINEL", "DEBUG", "INFO-PERIOD", 100, "PING-PERIOD", 100)  # ten seconds otherwise
        await until(lambda: _has_replica(watcher))
        await watcher.on_shutdown()
        url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:1,127.0.0.1:{port}/main/0"
        config = RedisConfig(url=url, sentinel_password="sentinel-canary", timeout=1)
        service = RedisService(config)
        await service.on_startup()
        assert PASSWORD not in repr(config) + str(await service.health_check())
        got, gaps = [], []
        async with service.subscriber(lambda *message: got.append(message[2]), on_gap=gaps.append) as subscriber:
            await subscriber.subscribe("news")
            assert 1 == await service.incr("n")
            assert 1 == await service.execute("WAIT", 1, 1000)
            assert b"1" == await service.client.get("n")
            assert b"1" == service.get_redis_client().get("n")
            await master.kill()
            errors = []

            async def writes():
                try:
                    await service.incr("n")
                except (ExternalServiceError, ServiceTimeoutError) as error:
                    errors.append(error)
                    return False
                return True

            await until(writes)
            assert b"2" == await service.get("n")
            assert all(isinstance(error, (ConnectionFailedError, ServiceTimeoutError)) for error in errors)
            assert not any(PASSWORD in str(error) or "sentinel-canary" in str(error) for error in errors)
            await until(lambda: asyncio.sleep(0, bool(gaps)))
            assert 1 == await service.publish("news", "back")
        async with client(replica.port) as direct:
            assert b"2" == await direct.get("n")
        await service.on_shutdown()
        other = RedisService(RedisConfig(url=url.replace("/main/", "/other/"), sentinel_password="sentinel-canary"))
        with pytest.raises(ConnectionFailedError, match="no sentinel names the master 'other'"):
            await other.on_startup()


async def _has(service, text, *command):
    return text.encode() in await service.execute(*command)


async def _has_replica(watcher):
    found = await watcher.execute("SENTINEL", "REPLICAS", "main")
    return [one for one in found if one[b"flags"] == b"slave" and one[b"master-link-status"] == b"ok"]


async def _starts(service):
    try:
        await service.on_startup()
    except ConnectionFailedError:  # the sentinel isn't up yet
        return False
    return True


async def test_server_that_only_reads_is_asked_anew(valkey):
    """A master that became a replica refuses writes; the error says to try again, and the next call connects anew."""
    async with server() as other, client(other.port) as service:
        await service.execute("REPLICAOF", "127.0.0.1", 1)
        for _ in range(2):
            with pytest.raises(ConnectionFailedError, match="READONLY"):
                await service.incr("n")
        assert 2 == service.statistics.connects
        await service.execute("REPLICAOF", "NO", "ONE")
        assert 1 == await service.incr("n")


# --- clusters -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """The ports of three nodes that share the slots; they live on an event loop of their own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(three_nodes()) as ports:
        yield ports


@contextlib.asynccontextmanager
async def three_nodes():
    """Servers that have met, each with a third of the slots."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(server(cluster_enabled="yes", cluster_port=str(free_port())))
            for _ in range(3)
        ]
        ports = [node.port for node in nodes]
        clients = [await stack.enter_async_context(client(port)) for port in ports]
        for number, one in enumerate(clients):
            await one.execute("CLUSTER", "ADDSLOTSRANGE", 5462 * number, min(5462 * number + 5461, 16383))
            await one.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        bus = (await clients[0].execute("CONFIG", "GET", "cluster-port"))[b"cluster-port"]
        for one in clients[1:]:
            await one.execute("CLUSTER", "MEET", "127.0.0.1", ports[0], bus)
        for one in clients:
            await until(lambda one=one: _has(one, "cluster_state:ok", "CLUSTER", "INFO"))
        yield ports


@pytest.fixture
async def clustered(cluster):
    """A service on the cluster that knows one of its nodes, and one that isn't there."""
    url = f"redis+cluster://:{PASSWORD}@127.0.0.1:1,127.0.0.1:{cluster[0]}"
    service = RedisService(RedisConfig(url=url))
    await service.on_startup()
    yield service
    await service.on_shutdown()


async def test_cluster_works_as_one_server(clustered):
    """Each key is found wherever it is; many keys at once, batches, scripts, blocking commands and messages as well."""
    keys = [f"k{n}" for n in range(200)]
    await asyncio.gather(*(clustered.set(key, n) for n, key in enumerate(keys)))
    expected = [str(n).encode() for n in range(200)]
    assert expected == await asyncio.gather(*(clustered.get(key) for key in keys))
    assert [*expected, None] == await clustered.mget([*keys, "none"])
    assert expected == await clustered.execute_many([("GET", key) for key in keys])
    assert (200, 2) == (await clustered.exists(*keys, "none"), await clustered.delete("k1", "k2", "none"))
    assert [b"k3", b"v"] == await clustered.evaluate("return {KEYS[1], ARGV[1]}", ["k3"], ["v"])
    assert await clustered.execute("BLPOP", "queue", 0.01) is None
    assert [] == await clustered.execute("ZUNION", 2, "{z}1", "{z}2")
    assert b"int" == await clustered.execute("OBJECT", "ENCODING", "k5")
    assert await clustered.execute("XREAD", "STREAMS", "stream", "0") is None
    assert b"5" == await clustered.client.get("k5")
    assert b"5" == clustered.get_redis_client().get("k5")
    got = []
    async with clustered.subscriber(lambda *message: got.append(message[2])) as subscriber:
        await subscriber.subscribe("news")
        await clustered.publish("news", "1")
        await clustered.publish_many("news", ["2", "3"])
        await until(lambda: asyncio.sleep(0, got == [b"1", b"2", b"3"]))
    assert await clustered.health_check()
    assert clustered.statistics.connects >= 3


async def test_cluster_keeps_together_what_belongs_together(clustered):
    """Transactions, locks and limits work on keys of one slot; several slots are refused, and nothing is done."""
    assert [b"OK", 2] == await clustered.execute_many([("SET", "{a}1", 1), ("INCR", "{a}1")], atomic=True)
    with pytest.raises(ValueError, match="in braces"):
        await clustered.execute_many([("SET", "a", 1), ("SET", "b", 1)], atomic=True)
    assert 0 == await clustered.exists("a", "b")
    async with clustered.transaction("{t}") as transaction:
        transaction.queue("SET", "{t}", 1)
    async with clustered.lock("job", ttl=5) as lock:
        assert lock.is_held
    limiter = clustered.rate_limiter("2/hour")
    await limiter.hit("k")
    assert 1 == (await limiter.window("k")).remaining


async def test_moving_slots_are_followed(clustered, cluster):
    """While a key moves to another node and when it is there, reads and writes find it, and nobody sees the move."""
    await clustered.set("mover", 1)
    slot = slot_of("mover")
    source, target = slot // 5462, (slot // 5462 + 1) % 3
    async with client(cluster[source]) as old, client(cluster[target]) as new:
        ids = [(await one.execute("CLUSTER", "MYID")).decode() for one in (old, new)]
        await new.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        await old.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        assert 2 == await clustered.incr("mover")
        await old.execute("MIGRATE", "127.0.0.1", cluster[target], "mover", 0, 5000, "AUTH", PASSWORD)
        assert 3 == await clustered.incr("mover")
        assert [4, b"4"] == await clustered.execute_many([("INCR", "mover"), ("GET", "mover")])
        for one in (new, old):
            await one.execute("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        assert 5 == await clustered.incr("mover")
        assert [6, b"6"] == await clustered.execute_many([("INCR", "mover"), ("GET", "mover")], atomic=True)
        assert b"6" == await new.get("mover")


def test_addresses_of_several_servers():
    """Sentinels and nodes are read with their ports, users and databases; what is malformed is refused unseen."""
    target = RedisConfig(url="redis+sentinel://u:p%40@[::1]:1,h/main/2").target()
    assert (("::1", 1), ("h", 26379)) == target.places
    assert ("main", 2, "u", "p@") == (
        target.master,
        target.address.database,
        target.address.username,
        target.address.password,
    )
    assert "main by ::1:1,h:26379" == str(target)
    assert (("a", 6379), ("b", 7)) == RedisConfig(url="redis+cluster://:p@a,b:7").target().places
    for url in ("redis+sentinel://canary-7Q@h", "redis://canary-7Q@a,b", "redis+cluster://:canary-7Q@", "redis://h:0"):
        with pytest.raises(ValueError, match=r"form|sentinel|port") as caught:
            RedisConfig(url=url)
        assert "canary" not in str(caught.value.errors()[0]["msg"])


def test_sync_client_of_several_servers():
    """The function for threads takes the same addresses; it connects with its first command."""
    assert get_redis_client(RedisConfig(url="redis+sentinel://127.0.0.1:1/main")) is not None


async def test_cache_works_on_a_cluster(clustered):
    """Values, tags, leases, news and clearing reach all nodes."""
    config = CacheConfig(local_size=200, local_ttl=3600)
    one, two = CacheService(config, redis=clustered), CacheService(config, redis=clustered)
    keys = [("k", str(n)) for n in range(50)]
    calls = []

    async def make():
        calls.append(1)
        await asyncio.sleep(0.01)
        return len(calls)

    async def has(count):
        return count == len(await two.get_many(keys))

    for cache in (one, two):
        await cache.on_startup()
    assert await one.set_many({key: key[1] for key in keys}, tags=["t", "u"])
    assert {key: key[1] for key in keys} == await two.get_many(keys)
    assert [1] * 4 == await asyncio.gather(*(cache.get_or_set("made", make, tags=["t"]) for cache in (one, two) * 2))
    assert 10 == await one.delete(*keys[:10])
    await until(lambda: has(40))
    assert await one.touch(keys[20], 100)
    assert await one.invalidate("t")
    await until(lambda: has(0))
    await one.set_many({key: key[1] for key in keys})
    assert 50 == await one.clear("k")
    await until(lambda: has(0))
    for cache in (one, two):
        await cache.on_shutdown()
