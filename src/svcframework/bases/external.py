"""ExternalService: the base of clients of other people's HTTP APIs; the only file that imports httpx2."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import anyio
from pydantic import Field, SecretStr
from typing_extensions import TypeVar  # typing's own has no default before Python 3.13

from svcframework._types import HealthResult, ServiceState
from svcframework.bases.circuit import CircuitBreaker, ConsecutiveBreaker, Outcome
from svcframework.bases.throttle import TokenBucket
from svcframework.config import ServiceConfig
from svcframework.deadlines import effective_timeout
from svcframework.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    DeadlineExceededError,
    ExternalServiceError,
    HttpStatusError,
    IllegalStateError,
    RateLimitedError,
    ServiceTimeoutError,
)
from svcframework.retry import RetryBudget, retry_on_failure
from svcframework.service import BaseService

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    import httpx2

# ruff: noqa: ASYNC109 - a call's own limit is part of the contract
# ruff: noqa: PLR2004 - HTTP statuses are known by their numbers

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""Methods that may be sent twice: the ones RFC 9110 (9.2.2) calls idempotent."""

_BODY_SHOWN = 2_000  # characters of an error's body that are kept


class ExternalServiceConfig(ServiceConfig):
    """Settings of a client of an HTTP API."""

    base_url: str = Field(default="", description="Where the API is; requests give paths below it.")
    api_key: SecretStr | None = Field(default=None, description="Sent as a bearer token.")
    timeout: float = Field(default=5.0, gt=0, description="Seconds one call may take, its retries included.")
    connect_timeout: float = Field(default=2.0, gt=0, description="Seconds to connect.")
    max_connections: int = Field(default=20, ge=1, description="Connections at once.")
    keepalive: float = Field(default=30.0, ge=0, description="Seconds an idle connection is kept.")
    max_retries: int = Field(default=2, ge=0, description="Attempts after the first one, if the method is idempotent.")
    retry_delay: float = Field(default=0.1, gt=0, description="Seconds before the first retry; doubled each time.")
    circuit_failures: int = Field(default=5, ge=1, description="Failures in a row that open the circuit.")
    circuit_recovery: float = Field(default=5.0, gt=0, description="Seconds an open circuit waits before a probe.")
    rate_limit: float | None = Field(default=None, gt=0, description="Calls per second; unlimited when not given.")
    rate_burst: int = Field(default=1, ge=1, description="Calls that may be made at once after a pause.")
    health_path: str | None = Field(default=None, description="A path to read at each health check; none by default.")


ExternalConfigT = TypeVar("ExternalConfigT", bound=ExternalServiceConfig, default=ExternalServiceConfig)


class ExternalService(BaseService[ExternalConfigT]):
    """A client of an HTTP API, with one pool of connections; lives as long as its host.

    Every call ends within its timeout or the caller's deadline, retries included. Failed calls of idempotent
    methods are made again, after `Retry-After` if the answer has one. A server that fails again and again is left
    alone for a while (circuit breaker), and calls keep below `rate_limit`. Errors are ours and hold neither query
    strings nor credentials.

    A subclass adds methods that call `request` and may override `auth_headers` and `make_transport`.
    """

    config_type = ExternalServiceConfig

    # --- calling --------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        accept: Collection[int] = (),
        retry: bool | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> httpx2.Response:
        """Send a request and return its answer, read to the end.

        Args:
            method: The HTTP method.
            path: Below `base_url`. A whole URL is refused where it leads to another origin.
            accept: Error statuses to return instead of raising, e.g. `{404}`.
            retry: Whether it may be sent again; by default if the method is idempotent or the headers have an
                `Idempotency-Key`. A body that can be read only once is never sent again.
            timeout: Seconds for all of it; the config's by default.
            headers: Besides those of `auth_headers`; they win.
            options: `params`, `json`, `data`, `content`, `files`, `cookies`, `extensions`, as httpx2 has them.

        Raises:
            ServiceTimeoutError: It took too long.
            ConnectionFailedError: The server can't be reached or hung up.
            AuthenticationFailedError: 401 or 403.
            RateLimitedError: 429, or our own rate limit.
            HttpStatusError: Any other status of 400 and above.
            CircuitOpenError: The server failed too often lately, and was not asked.
        """
        method = method.upper()
        self._same_origin(path)
        limit = self._setting("timeout") if timeout is None else timeout
        call = _Call(f"{self.name}: {method} {_shown(path)}", limit, frozenset(accept))
        sent = {**self.auth_headers(), **(headers or {})}
        if retry is None:
            retry = method in IDEMPOTENT or any(key.lower() == "idempotency-key" for key in sent)
        send = self._retrying if retry and _repeatable(options) else self._attempt
        allowed = effective_timeout(limit)
        with anyio.move_on_after(allowed):
            return await send(call, lambda: self.http_client.build_request(method, path, headers=sent, **options))
        if allowed < limit:
            raise DeadlineExceededError(call.operation, allowed)
        raise ServiceTimeoutError(call.operation, limit)

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        """`request("GET", …)`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> httpx2.Response:
        """`request("POST", …)`; sent once, unless it has an `Idempotency-Key` or `retry=True`."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> httpx2.Response:
        """`request("PUT", …)`."""
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Any) -> httpx2.Response:
        """`request("PATCH", …)`; sent once, like `post`."""
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> httpx2.Response:
        """`request("DELETE", …)`."""
        return await self.request("DELETE", path, **options)

    @property
    def http_client(self) -> httpx2.AsyncClient:
        """The pooled client itself, for streams and websockets; without retries, circuit and rate limit.

        Raises:
            IllegalStateError: The service has been stopped.
        """
        client = self.__dict__.get("_http_client")
        if client is None:
            if self.state in {ServiceState.STOPPING, ServiceState.STOPPED}:
                raise IllegalStateError(f"call {self.name!r}", self.state, fix="use it while its host runs")
            client = self.__dict__["_http_client"] = self._open()
        return cast("httpx2.AsyncClient", client)

    @property
    def circuit(self) -> CircuitBreaker:
        """The breaker of this service; set another one to share its state between processes."""
        breaker = self.__dict__.get("_circuit")
        if breaker is None:
            breaker = self.__dict__["_circuit"] = ConsecutiveBreaker(
                self.name, failures=self._setting("circuit_failures"), recovery=self._setting("circuit_recovery")
            )
        return cast("CircuitBreaker", breaker)

    @circuit.setter
    def circuit(self, breaker: CircuitBreaker) -> None:
        self.__dict__["_circuit"] = breaker

    # --- what its author may override -----------------------------------------------------------------

    def auth_headers(self) -> Mapping[str, str]:
        """Headers that say who calls; asked for with each call, so that a new key takes effect."""
        key = self._setting("api_key")
        return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}

    def make_transport(self) -> httpx2.AsyncBaseTransport | None:
        """What carries the requests; None for the network. A test returns `httpx2.MockTransport(handler)`."""
        return None

    # --- life -----------------------------------------------------------------------------------------

    async def on_startup(self) -> None:
        """Load the client and open its pool, in a thread: the import and the trust store take a while."""
        await super().on_startup()
        if "_http_client" not in self.__dict__:
            self.__dict__["_http_client"] = await anyio.to_thread.run_sync(self._open)

    async def on_shutdown(self) -> None:
        """Close the pool."""
        client = self.__dict__.pop("_http_client", None)
        if client is not None:
            await client.aclose()
        await super().on_shutdown()

    async def _service_health_check(self) -> HealthResult | Mapping[str, Any] | bool:
        """Degraded while the circuit is open; asks the server only where `health_path` says so."""
        if self.circuit.state == "open":
            return HealthResult.degraded("circuit open: too many calls failed")
        path = self._setting("health_path")
        if path is not None and self.state.is_running:
            await self.request("GET", path, retry=False)
        return await super()._service_health_check()

    # --- one attempt ----------------------------------------------------------------------------------

    @property
    def _retrying(self) -> Callable[[_Call, Callable[[], httpx2.Request]], Awaitable[httpx2.Response]]:
        """`_attempt` with retries; one for all calls, since the retry budget is theirs together."""
        retrying = self.__dict__.get("_retrying_attempt")
        if retrying is None:
            retrying = self.__dict__["_retrying_attempt"] = retry_on_failure(
                max_retries=self._setting("max_retries"),
                delay=self._setting("retry_delay"),
                max_delay=max(self._setting("timeout"), self._setting("retry_delay")),
                exceptions=(ExternalServiceError, ServiceTimeoutError),
                budget=RetryBudget(),
            )(self._attempt)
        return cast("Callable[[_Call, Callable[[], httpx2.Request]], Awaitable[httpx2.Response]]", retrying)

    async def _attempt(self, call: _Call, build: Callable[[], httpx2.Request]) -> httpx2.Response:
        if self._bucket is not None:
            await self._bucket.acquire()
        ticket = self.circuit.acquire()
        outcome: Outcome = "neutral"
        begun = anyio.current_time()
        try:
            response = await self._send(call, build())
            outcome = "failure" if response.status_code >= 500 else "success"
        except (ConnectionFailedError, ServiceTimeoutError):
            outcome = "failure"
            raise
        except anyio.get_cancelled_exc_class():
            if anyio.current_time() - begun >= 0.9 * self._setting("timeout"):
                outcome = "failure"  # not the caller's impatience: it had all the time that a call may take
            raise
        finally:
            self.circuit.release(ticket, outcome)
        error = None if response.status_code in call.accept else _error_of(call.operation, response)
        if error is not None:
            raise error
        return response

    async def _send(self, call: _Call, request: httpx2.Request) -> httpx2.Response:
        """Send once, with errors of ours: `from None`, since the driver's own show the whole URL."""
        import httpx2  # noqa: PLC0415 - loads when the service starts

        try:
            return await self.http_client.send(request)
        except (httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            what = "no free connection" if isinstance(error, httpx2.PoolTimeout) else "no connection"
            seconds = self._setting("connect_timeout")
            raise ConnectionFailedError(f"{call.operation}: {what} within {seconds:g} s") from None
        except httpx2.TimeoutException:
            raise ServiceTimeoutError(call.operation, call.limit) from None
        except httpx2.TransportError as error:
            raise ConnectionFailedError(f"{call.operation}: {type(error).__name__}") from None
        except httpx2.HTTPError as error:
            raise ExternalServiceError(f"{call.operation}: {type(error).__name__}") from None

    # --- small things ---------------------------------------------------------------------------------

    def _open(self) -> httpx2.AsyncClient:
        import httpx2  # noqa: PLC0415 - loads when the service starts

        connect, connections = self._setting("connect_timeout"), self._setting("max_connections")
        return httpx2.AsyncClient(
            base_url=self._setting("base_url"),
            timeout=httpx2.Timeout(self._setting("timeout"), connect=connect, pool=connect),
            limits=httpx2.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=self._setting("keepalive"),
            ),
            transport=self.make_transport(),
        )

    @property
    def _bucket(self) -> TokenBucket | None:
        if "_token_bucket" not in self.__dict__:
            rate, burst = self._setting("rate_limit"), self._setting("rate_burst")
            self.__dict__["_token_bucket"] = None if rate is None else TokenBucket(self.name, rate, burst=burst)
        return cast("TokenBucket | None", self.__dict__["_token_bucket"])

    def _setting(self, name: str) -> Any:
        """A setting of the config; its default, where the service was given another settings object."""
        return getattr(self.config, name, ExternalServiceConfig.model_fields[name].default)

    def _same_origin(self, path: str) -> None:
        base = urlsplit(self._setting("base_url"))
        given = urlsplit(path)
        if (
            (given.scheme or given.netloc)
            and base.netloc
            and (given.scheme, given.netloc) != (base.scheme, base.netloc)
        ):
            raise ValueError(
                f"{self.name}: {_shown(path)} leads away from {base.scheme}://{base.hostname}, which the credentials "
                "are for. Give a path below base_url, or use a service of its own for the other server."
            )


class _Call:
    """What the attempts of one call share."""

    __slots__ = ("accept", "limit", "operation")

    def __init__(self, operation: str, limit: float, accept: frozenset[int]) -> None:
        self.operation, self.limit, self.accept = operation, limit, accept


def _error_of(operation: str, response: httpx2.Response) -> ExternalServiceError | None:
    status = response.status_code
    if status < 400:
        return None
    if status in {401, 403}:
        return AuthenticationFailedError(f"{operation}: the credentials were refused (HTTP {status})")
    retry_after = parse_retry_after(response.headers.get("retry-after"))
    if status == 429:
        return RateLimitedError(f"{operation}: the server asks to slow down (HTTP 429)", retry_after=retry_after)
    return HttpStatusError(operation, status, body=response.text[:_BODY_SHOWN], retry_after=retry_after)


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """The seconds that a `Retry-After` header asks to wait: a number or a date; None where it says nothing.

    Args:
        value: The header.
        now: The time a date is compared with; the current time by default.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


def _shown(path: str) -> str:
    """A path or URL without query, fragment and credentials."""
    parts = urlsplit(path)
    return f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.netloc else parts.path


def _repeatable(options: Mapping[str, Any]) -> bool:
    """The body can be sent a second time."""
    content = options.get("content")
    return options.get("files") is None and (content is None or isinstance(content, str | bytes))
