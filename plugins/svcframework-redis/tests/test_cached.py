"""`@cached`: which calls share a value, what is refused, and what it does to a function."""

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import uuid

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from svcframework import BaseService, ServiceContainer, ServiceHost, providers, service_method
from svcframework.errors import RegistrationError, ServiceNotFoundError
from svcframework_redis import (
    CacheConfig,
    CacheIntegration,
    CacheService,
    MemoryCache,
    MissingTenantError,
    RedisService,
    UncacheableArgumentError,
    cached,
)
from svcframework_redis.caching.arguments import text_of

CALLS = []


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@dataclasses.dataclass
class User:
    id: str
    age: int = 0


class Users(BaseService):
    """Has a cache by its host."""

    @cached(ttl=60, tags=["users", "user:{user_id}"])
    @service_method
    async def load(self, user_id: str, *, deep: bool = False) -> User | None:
        """Reads a user."""
        CALLS.append((self.name, user_id, deep))
        await asyncio.sleep(0.01)
        return None if user_id == "nobody" else User(user_id, len(CALLS))

    @cached(tenant="tenant", key="{number}")
    async def count(self, tenant: str | None, number: int) -> int:
        CALLS.append(number)
        return number


class Other(Users):
    pass


class AppContainer(ServiceContainer):
    cache = providers.Service(MemoryCache, config=CacheConfig(local_size=100, local_ttl=100))
    users = providers.Service(Users)
    more_users = providers.Service(Users)
    other = providers.Service(Other)


@pytest.fixture
async def host():
    async with ServiceHost(AppContainer) as host:
        yield host


async def test_call_is_made_once(host):
    """However the arguments are written, equal calls share one value, of the type that the function returns."""
    users = host["users"]
    found = await asyncio.gather(users.load("1"), users.load(user_id="1"), users.load("1", deep=False))
    assert [User("1", 1)] * 3 == [*found]
    assert User("1", 1) == await users.load("1")
    assert User("1", 2) == await users.load("1", deep=True)
    assert await users.load("nobody") is None is await users.load("nobody")
    assert [("users", "1", False), ("users", "1", True), ("users", "nobody", False)] == CALLS
    assert 3 == users.metrics.operation("load").count


async def test_self_is_no_part_of_the_key_but_the_service_is(host):
    """Services of other names, and of other classes, have values of their own."""
    for name in ("users", "more_users", "other", "users"):
        await host[name].load("1")
    assert ["users", "more_users", "other"] == [call[0] for call in CALLS]


async def test_invalidate_takes_the_same_arguments(host):
    """One call's value is forgotten, by its arguments or by a tag; also one that is being made."""
    users = host["users"]
    for forget in (
        lambda: users.load.invalidate("1"),
        lambda: users.load.invalidate(user_id="1", deep=False),
        lambda: host[MemoryCache].invalidate("user:1"),
        lambda: host[MemoryCache].invalidate("users"),
        lambda: Users.load.invalidate(users, "1"),
        lambda: host[MemoryCache].delete(users.load.key("1")),
    ):
        await users.load("1")
        await users.load("2")
        CALLS.clear()
        await forget()
        await users.load("1")
        assert [("users", "1", False)] == CALLS
    making = asyncio.create_task(users.load("3"))
    await asyncio.sleep(0.005)
    await users.load.invalidate("3")
    made = await making
    assert made != await users.load("3")


async def test_tenants_of_a_function_share_nothing(host):
    """The tenant is an argument by name; a call without one is refused, also after others."""
    users = host["users"]
    for tenant in ("a", "b", "a", "b"):
        assert 5 == await users.count(tenant, 5)
    assert [5, 5] == CALLS
    await users.count.invalidate("a", 5)
    await users.count("b", 5)
    assert 2 == len(CALLS)
    for missing in ("", None, " "):
        for _ in range(2):
            with pytest.raises(MissingTenantError, match=r"count\(\)"):
                await users.count(missing, 5)


async def test_equal_arguments_of_other_types_are_other_calls():
    """1, True, 1.0 and the like are equal, and not the same."""
    cache = MemoryCache(CacheConfig(local_size=100))

    @CacheIntegration(cache).cached(name="show")
    async def show(value: object) -> str:
        return repr(value)

    values = [1, True, 1.0, "1", b"1", 0, False, 0.0, -0.0, "", None, (1,), (True,), [1], decimal.Decimal(1)]
    for _ in range(3):
        assert list(map(repr, values)) == [await show(value) for value in values]
    assert len(values) == len({show.key(value) for value in values})


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Point(msgspec.Struct):
    x: object


class Model(BaseModel):
    x: object


ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.text("a:1i", max_size=3), st.floats(-1, 1), st.binary(max_size=2),
    st.sampled_from([*Colour, dt.date(2026, 1, 1), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.timedelta(1)]),
    st.just(uuid.UUID(int=1)),
)  # fmt: skip
ARGUMENTS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text("a:", max_size=2), inner, max_size=2),
        st.builds(Point, inner),
        st.builds(Model, x=inner),
        st.builds(User, inner),
    ),
    max_leaves=5,
)


def shown(value):
    """A value as plain text in which types and signs differ as well, but not the order of a dict."""
    if isinstance(value, dict):
        return repr(sorted((shown(key), shown(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return type(value).__name__ + repr([shown(item) for item in value])
    if isinstance(value, (Point, Model, User)):
        fields = {name: getattr(value, name) for name in ("x", "id", "age") if hasattr(value, name)}
        return type(value).__name__ + shown(fields)
    return f"{type(value).__name__} {value!r}"


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow], deadline=None, derandomize=True)
@given(st.lists(ARGUMENTS, min_size=2, max_size=8))
def test_texts_of_arguments_are_injective(values):
    """Two arguments have the same text only if they are the same, with their types."""
    for one in values:
        for two in values:
            assert (shown(one) == shown(two)) == (text_of(one) == text_of(two))
    assert text_of(frozenset("ab")) == text_of(frozenset("ba")) != text_of(frozenset("b"))


async def test_what_cannot_be_a_key_is_refused_with_its_name(host):
    """The error names function, argument and type, and says what to do; nothing was called."""

    @CacheIntegration(host[MemoryCache]).cached(name="f")
    async def look(session: object) -> int:
        raise AssertionError

    for argument in (object(), [object()], print, {1: object()}):
        with pytest.raises(UncacheableArgumentError, match=r"look\(\): the argument 'session' is a .*key="):
            await look(argument)
    with pytest.raises(TypeError, match=r"missing a required argument|missing 1 required"):
        await look()


def test_what_cannot_be_cached_is_refused_where_it_is_written():
    """Sync functions, wrong templates and closures over variables fail at their decoration."""
    with pytest.raises(RegistrationError, match="isn't async"):

        @cached()
        def sync() -> int: ...

    with pytest.raises(RegistrationError, match="isn't async"):

        @cached()
        async def items():
            yield 1

    with pytest.raises(RegistrationError, match="goes below @staticmethod"):

        class _Wrong:
            @cached()
            @staticmethod
            async def f(): ...

    for options in ({"key": "{b}"}, {"tags": ["user:{b}"]}, {"tenant": "b"}, {"key": "{a"}):
        with pytest.raises(RegistrationError, match=r"of its arguments|expected"):

            @cached(**options)
            async def one(a: int) -> int: ...

    around = 5
    with pytest.raises(RegistrationError, match="variables of the function around it"):

        @cached()
        async def inner() -> int:
            return around


async def test_own_keys_and_tags():
    """Functions of the same arguments may say what the key, the tags and the tenant are, `self` included."""
    cache = MemoryCache()

    class Region:
        def __init__(self, name):
            self.name = name

        @CacheIntegration(cache).cached(
            key=lambda self, number, **_: (self.name, str(number % 10)),
            tags=lambda self, number, **_: [f"region:{self.name}"],
            tenant=lambda self, number, **_: f"tenant of {self.name}",
        )
        async def load(self, number: int, **options: int) -> str:
            CALLS.append(number)
            return f"{self.name} {number % 10}"

    here, there = Region("here"), Region("there")
    assert ["here 1", "here 1", "there 1"] == [await here.load(1), await here.load(11), await there.load(1)]
    await cache.for_tenant("tenant of here").invalidate("region:here")
    await there.load(1)
    await here.load(1, more=5)
    assert [1, 1, 1] == CALLS


async def test_static_and_class_methods_and_bare_functions():
    """`@cached` stands below `@staticmethod` and `@classmethod`; classes have values of their own."""
    cache = CacheIntegration(MemoryCache(CacheConfig(local_size=10)))

    class Base:
        @staticmethod
        @cache.cached()
        async def static(n: int, *more: int, **named: int) -> list[int]:
            CALLS.append(n)
            return [n, *more, *named.values()]

        @classmethod
        @cache.cached()
        async def of_class(cls, n: int) -> str:
            CALLS.append(n)
            return f"{cls.__name__} {n}"

    class Derived(Base):
        pass

    for _ in range(2):
        assert [1, 2, 3] == await Base.static(1, 2, x=3)
        assert [1, 3, 2] == await Base.static(1, 3, x=2)
        assert ["Base 1", "Derived 1"] == [await Base.of_class(1), await Derived.of_class(1)]
    assert 4 == len(CALLS)


def test_function_looks_as_before():
    """Name, documentation and signature are those of the function, and it counts as a coroutine function."""
    assert ("load", "Reads a user.") == (Users.load.__name__, Users.load.__doc__)
    assert "(self, user_id: str, *, deep: bool = False) -> User | None" == str(inspect.signature(Users.load)).replace(
        f"{__name__}.", ""
    ).replace("'", "")
    assert inspect.iscoroutinefunction(Users.load)
    bound = Users().load
    assert inspect.iscoroutinefunction(bound)
    assert "load" == bound.__name__
    assert not hasattr(bound, "unknown")


async def test_override_of_the_cache_is_seen(host):
    """A cache put in its place for a block is the one that functions use, though they know the other well."""
    users = host["users"]
    await users.load("1")
    await users.load("1")
    with host.override(cache=MemoryCache(CacheConfig())):
        await users.load("1")
        assert 2 == len(CALLS)
    await users.load("1")
    assert 2 == len(CALLS)


async def test_function_without_a_cache_says_so():
    """No host has a cache: the error is that of any missing service."""
    with pytest.raises(ServiceNotFoundError, match="StoredCache"):
        await Users().load("1")


async def test_cached_functions_work_on_redis_and_survive_it(mortal_valkey):
    """Values come from Redis, and from the source while it is away."""

    class RedisContainer(ServiceContainer):
        redis_service = providers.Service(RedisService, server=providers.Object(mortal_valkey))
        cache_service = providers.Service(CacheService, redis=redis_service)
        users = providers.Service(Users)

    async with ServiceHost(RedisContainer) as host:
        users = host[Users]
        assert User("1", 1) == await users.load("1") == await users.load("1")
        assert 1 == host[CacheService].counts.hits
        await mortal_valkey.kill()
        assert User("1", 2) == await users.load("1")
        await users.load.invalidate("1")
        await mortal_valkey.relaunch()


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_order_of_named_arguments_is_no_difference(named):
    """`f(a=1, b=2)` and `f(b=2, a=1)` are one call."""

    @CacheIntegration(MemoryCache()).cached()
    async def take(a: int = 0, b: int = 0, c: int = 0) -> None: ...

    assert take.key(**named) == take.key(**dict(reversed(named.items())))


class SimpleCache:
    """A cache of another make: it has what the contract says, and nothing else."""

    def __init__(self):
        self.kept = {}

    async def get_or_set(self, key, factory, ttl=None, **_options):
        if key not in self.kept:
            self.kept[key] = await factory()
        return self.kept[key]

    async def delete(self, *keys):
        return sum(self.kept.pop(key, None) is not None for key in keys)


async def test_any_cache_will_do():
    """What has the contract's methods can be given to the integration."""

    @CacheIntegration(SimpleCache()).cached()
    async def double(n: int) -> int:
        CALLS.append(n)
        return 2 * n

    assert [4, 4] == [await double(2), await double(2)]
    await double.invalidate(2)
    await double(2)
    assert [2, 2] == CALLS
