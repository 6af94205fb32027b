"""CacheIntegration: `@cached`, which keeps what a function returns, by its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, get_type_hints, overload

from svcframework.default import current_host
from svcframework.errors import RegistrationError
from svcframework.service import BaseService
from svcframework_redis.caching.arguments import ArgumentKeys
from svcframework_redis.caching.hits import compile_call, identity_of
from svcframework_redis.caching.keyspace import Key, is_text
from svcframework_redis.caching.local import LocalPlace
from svcframework_redis.caching.operations import CacheOperations
from svcframework_redis.caching.refusals import MissingTenantError
from svcframework_redis.caching.service import StoredCache
from svcframework_redis.caching.values import MISSING

if TYPE_CHECKING:
    from svcframework.bases import Cache

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")

_KEPT = 1_024  # calls whose keys are remembered, of each function
# Of these, equal values of one type are the same value; 0.0 and -0.0 are not.
_KEYABLE = frozenset({str, int, bool, bytes, type(None)})

if TYPE_CHECKING:

    class _Partial:
        """What `functools.partial` has; its own type would hide the parameters."""

        func: Any
        args: tuple[Any, ...]
else:
    _Partial = functools.partial  # calls and binds at the speed of C


class CachedFunction(_Partial, Generic[P, R]):
    """A cached function, or one bound to its instance; call it as the function it was."""

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
            """What the function returns, from the cache where it can be."""

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget what the function returned for these arguments, also what it is about to return."""
        cache, key = self._site.place((*self.args, *args), kwargs)
        await cache.delete(key)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """The key under which the cache keeps what the function returns for these arguments.

        Raises:
            UncacheableArgumentError: No key can be made of an argument.
        """
        return self._site.plan((*self.args, *args), kwargs)[1]

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> CachedFunction[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else CachedFunction(self.func, instance)  # type: ignore[call-arg]  # partial's

    @property
    def _site(self) -> _Site:
        site: _Site = self.func.site
        return site

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # A bound one has the names of its function; nothing else is looked up there.
            if name in {"__name__", "__qualname__", "__module__", "__wrapped__"}:
                return getattr(self.func, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class CacheIntegration:
    """Gives functions a cache; lives as long as they.

    Args:
        cache: The cache, or the name or type of a service in the host that a call belongs to: of a service's method,
            the instance's host, otherwise the current one. The one cache service of the host when not given.
    """

    def __init__(self, cache: Cache | str | type[Any] | None = None) -> None:
        self._cache = cache

    def cached(
        self,
        ttl: float | None = None,
        *,
        key: str | Callable[..., Key] | None = None,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        tenant: str | Callable[..., str] | None = None,
        negative_ttl: float | None = None,
        refresh_after: float | None = None,
        type: Any = MISSING,  # noqa: A002 - reads best
        name: str | None = None,
    ) -> Callable[[Callable[P, Awaitable[R]]], CachedFunction[P, R]]:
        """Keep what an async function returns, by its arguments. Goes above all other decorators.

        `self` is not part of the key: instances of one class share what they return, and services of one class do if
        they have the same name. A class whose instances differ says so with `key=`.

        Args:
            ttl: Seconds; the cache's own when not given.
            key: A template with arguments (`"user:{user_id}"`), or a function of the same arguments that returns a
                key; all arguments when not given.
            tags: Templates, or a function of the same arguments that returns tags.
            tenant: The name of the argument that holds the tenant, or a function of the same arguments that returns
                it. There is no default tenant.
            negative_ttl: Seconds that None is kept; the cache's own when not given.
            refresh_after: Seconds after which the value is made anew in the background; the function may then run
                after its caller has returned.
            type: What to read a kept value as; what the function says it returns when not given.
            name: What keys begin with; the function's full name when not given. A new one makes a fresh start.

        Raises:
            RegistrationError: The function isn't async, or a template names what is no argument.
            UncacheableArgumentError: Raised by the call: no key can be made of an argument.
            MissingTenantError: Raised by the call: the tenant is empty.
        """

        def decorate(function: Callable[P, Awaitable[R]]) -> CachedFunction[P, R]:
            options = {"ttl": ttl, "negative_ttl": negative_ttl, "refresh_after": refresh_after}
            site = _Site(self._cache, function, options, kind=type, name=name)
            site.use(key=key, tags=tags, tenant=tenant)
            return site.wrapped()

        return decorate


class _Site:
    """What one decorated function knows; lives as long as the function."""

    def __init__(
        self,
        cache: Any,
        function: Callable[..., Awaitable[Any]],
        options: dict[str, Any],
        *,
        kind: Any,
        name: str | None,
    ) -> None:
        self._check(function, name)
        self._cache: Any = StoredCache if cache is None else cache
        self.function, self._options, self._kind = function, options, kind
        self._shown = function.__qualname__
        self._name = name or f"{function.__module__}.{function.__qualname__}"
        self._arguments = ArgumentKeys(function)
        self._known: dict[Any, LocalPlace] = {}
        self._key: Callable[[tuple[Any, ...], dict[str, Any]], Key] = self._default_key
        self._tags: Callable[[tuple[Any, ...], dict[str, Any]], Iterable[str]] = lambda _args, _kwargs: ()
        self._tenant: Callable[[tuple[Any, ...], dict[str, Any]], Any] | None = None
        self._is_pure = True  # the key follows from the arguments alone

    @staticmethod
    def _check(function: Any, name: str | None) -> None:
        shown = getattr(function, "__qualname__", repr(function))
        if isinstance(function, (staticmethod, classmethod)):
            raise RegistrationError(f"@cached goes below @{type(function).__name__}, next to the function it caches.")
        if not inspect.iscoroutinefunction(function):
            raise RegistrationError(
                f"@cached on {shown}(): it isn't async, and asking the cache is. Make it `async def`; what blocks goes "
                "into a thread: `await anyio.to_thread.run_sync(…)`."
            )
        code = getattr(inspect.unwrap(function), "__code__", None)
        if name is None and code is not None and set(code.co_freevars) - {"__class__"}:
            raise RegistrationError(
                f"@cached on {shown}(): it uses variables of the function around it, which are no part of the key. "
                "Give it a name=… that tells it from its like, or pass them as arguments."
            )

    def use(self, *, key: Any, tags: Any, tenant: Any) -> None:
        """Take what the decorator was given."""
        if isinstance(key, str):
            self._key = self._template_key(key)
        elif key is not None:
            self._key, self._is_pure = (lambda args, kwargs: self._own_key(key(*args, **kwargs))), False
        if callable(tags):
            self._tags = lambda args, kwargs: tags(*args, **kwargs)
        elif tags:
            self._tags = self._template_tags([tags] if isinstance(tags, str) else list(tags))
        if isinstance(tenant, str):
            self._arguments.template(f"{{{tenant}}}", what="tenant")
            self._tenant = lambda args, kwargs: self._arguments.named(args, kwargs).get(tenant)
        elif tenant is not None:
            self._tenant, self._is_pure = (lambda args, kwargs: tenant(*args, **kwargs)), False

    def wrapped(self) -> CachedFunction[Any, Any]:
        """The function with the cache around it."""
        call: Any = compile_call(
            self.function,
            self._slow,
            self._known,
            is_method=self._arguments.is_method,
            is_quick=self._is_pure,
            cache=self._cache,
            find=lambda: current_host().get(self._cache),
        )
        functools.update_wrapper(call, self.function, updated=())
        call.site = self  # for the bound ones, which know nothing but this function
        wrapped: Any = CachedFunction(call)  # type: ignore[call-arg]  # partial's
        functools.update_wrapper(wrapped, self.function)
        return wrapped  # type: ignore[no-any-return]  # made above

    async def _slow(self, *args: Any, **kwargs: Any) -> Any:
        tenant, key = self.plan(args, kwargs)
        cache = self._find(args)
        view = cache if tenant is None else cache.for_tenant(tenant)
        kind = self._returned()
        if self._is_pure and isinstance(view, CacheOperations):
            self._remember(args, kwargs, cache, view.place(key, kind))

        async def source() -> Any:
            return await self.function(*args, **kwargs)

        tags = tuple(self._tags(args, kwargs))
        return await view.get_or_set(key, source, type=kind, tags=tags, **self._options)

    # --- where a call's value is ------------------------------------------------------------------------

    def place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Key]:
        """The cache, or the tenant's view of it, and the key."""
        tenant, key = self.plan(args, kwargs)
        cache = self._find(args)
        return (cache if tenant is None else cache.for_tenant(tenant)), key

    def plan(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str | None, Key]:
        """The tenant and the key."""
        tenant = None
        if self._tenant is not None:
            tenant = self._tenant(args, kwargs)
            if not is_text(tenant) or not tenant.strip():
                raise MissingTenantError(tenant, needed_by=f"{self._shown}()")
        return tenant, self._key(args, kwargs)

    def _find(self, args: tuple[Any, ...]) -> Any:
        """The cache of a call: the given one, or that of the host which the function belongs to."""
        if not isinstance(self._cache, (str, type)):
            return self._cache
        first = args[0] if self._arguments.is_method and args else None
        host = first.host if isinstance(first, BaseService) else None
        return (current_host() if host is None else host).get(self._cache)

    def _remember(self, args: tuple[Any, ...], kwargs: dict[str, Any], cache: Any, place: LocalPlace) -> None:
        """Let the next call with the same arguments look at `place` first."""
        values = self._arguments.all_named(args, kwargs)
        compared = list(values.values())[self._arguments.is_method :]
        if self._arguments.is_method and isinstance(values.get("self"), type):  # a method of a metaclass
            return
        if _KEYABLE.issuperset(map(type, compared)):
            if len(self._known) >= _KEPT:
                self._known.clear()
            place.cache = cache
            self._known[identity_of(list(values), values, is_method=self._arguments.is_method)] = place

    # --- keys and tags ----------------------------------------------------------------------------------

    def _default_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
        return (self._name, *self._owner(args), *self._arguments.parts(args, kwargs))

    def _own_key(self, key: Key) -> Key:
        return (self._name, *((key,) if isinstance(key, str) else key))

    def _owner(self, args: tuple[Any, ...]) -> tuple[str, ...]:
        """What a method belongs to: its class, and the service's name if it is one."""
        if not self._arguments.is_method or not args:
            return ()
        first = args[0]
        kind = first if isinstance(first, type) else type(first)
        owner = f"{kind.__module__}.{kind.__qualname__}"
        return (owner, first.name) if isinstance(first, BaseService) else (owner,)

    def _template_key(self, text: str) -> Callable[[tuple[Any, ...], dict[str, Any]], Key]:
        pieces, text_of = self._arguments.template(text, what="key"), self._arguments.text

        def key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
            named = self._arguments.named(args, kwargs)
            fields = [f"{field}={text_of(field, named.get(field))}" for _, field in pieces if field is not None]
            return (self._name, *self._owner(args), text, *fields)

        return key

    def _template_tags(self, texts: list[str]) -> Callable[[tuple[Any, ...], dict[str, Any]], Iterable[str]]:
        for text in texts:
            self._arguments.template(text, what="tags")

        def tags(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[str]:
            named = self._arguments.named(args, kwargs)
            return [text.format_map(named) for text in texts]

        return tags

    def _returned(self) -> Any:
        """What the function says it returns; anything at all if it doesn't say.

        Raises:
            RegistrationError: Its annotation can't be read.
        """
        if self._kind is not MISSING:
            return self._kind
        try:
            self._kind = get_type_hints(inspect.unwrap(self.function)).get("return", Any)
        except NameError as error:
            raise RegistrationError(
                f"@cached on {self._shown}(): the annotations can't be read ({error}). Give type=…, or import what "
                "they name outside `if TYPE_CHECKING`."
            ) from error
        return self._kind


cached = CacheIntegration().cached
"""`CacheIntegration().cached`: for functions whose cache is the one of their host."""
