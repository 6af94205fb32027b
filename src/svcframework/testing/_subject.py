"""Subject: the service that a suite of inherited tests is about, and how tests get one at an address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import pytest

from svcframework.service import BaseService

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

ADDRESS_SETTINGS = ("url", "dsn", "endpoint", "base_url")
"""What a setting that takes an address is usually called."""


def deviates(reason: str) -> Callable[[FunctionT], FunctionT]:
    """Allow a test to replace the inherited one of the same name.

    Args:
        reason: Why the service can't pass the inherited one; reviewers read it.
    """
    if not reason.strip():
        raise ValueError("a deviation needs a reason")

    def mark(function: FunctionT) -> FunctionT:
        function.__deviates__ = reason  # type: ignore[attr-defined]  # read below
        return function

    return mark


class Subject:
    """What is under test; the suites are subclasses."""

    service: ClassVar[type[BaseService[Any]]]
    """The class under test."""
    server: ClassVar[str | None] = None
    """The name of a fixture whose value has a `url` or `dsn`; None for a service without a server."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Settings of each service under test, e.g. shorter timeouts."""
    address_setting: ClassVar[str | None] = None
    """The setting that takes the address; found by itself when it is `url`, `dsn`, `endpoint` or `base_url`."""
    distribution: ClassVar[Path | None] = None
    """The plugin's root, with its pyproject.toml; found from the test file when not given."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        suites = [base for base in cls.__mro__[1:] if base.__module__.startswith(f"{__package__}.")]
        for name in vars(cls):
            replaced = name.startswith("test_") and any(name in vars(suite) for suite in suites)
            if replaced and not hasattr(vars(cls)[name], "__deviates__"):
                msg = f"{cls.__name__}.{name} replaces a conformance test; give it another name or @deviates('reason')"
                raise TypeError(msg)

    def make_service(self, address: str | None, **settings: Any) -> BaseService[Any]:
        """A new service, not started.

        Args:
            address: The server's, or that of a fault proxy before it; None for a service without a server.
            settings: Further settings; they win.
        """
        given: dict[str, Any] = {} if address is None else {self._address_setting(): address}
        return self.service(self.service.config_type(**{**given, **self.settings, **settings}))

    def without_credentials(self, address: str, secret: str) -> str:
        """The address with `secret` in the place of its password. For the tests of secrets."""
        parts = urlsplit(address)
        user = parts.username or ""
        return parts._replace(netloc=f"{user}:{secret}@{parts.netloc.rpartition('@')[2]}").geturl()

    # --- fixtures ---------------------------------------------------------------------------------------

    @pytest.fixture
    def address(self, request: pytest.FixtureRequest) -> str | None:
        """Where the server is."""
        return None if self.server is None else address_of(request.getfixturevalue(self.server), self.server)

    @pytest.fixture
    def server_address(self, address: str | None) -> str:
        """Where the server is, for tests that are only there when there is one."""
        assert address is not None  # noqa: S101 - it is a test's
        return address

    @pytest.fixture
    def root(self, request: pytest.FixtureRequest) -> Path:
        """The plugin's own directory."""
        if self.distribution is not None:
            return self.distribution
        for folder in request.path.parents:
            if (folder / "pyproject.toml").is_file():
                return folder
        pytest.fail(f"no pyproject.toml above {request.path}; set `distribution`")

    def _address_setting(self) -> str:
        fields = self.service.config_type.model_fields
        for name in (self.address_setting, *ADDRESS_SETTINGS):
            if name is not None and name in fields:
                return name
        msg = f"{self.service.config_type.__name__} has no setting for an address; set `address_setting`"
        raise TypeError(msg)


def address_of(handle: object, named: str) -> str:
    """The address that a fixture's value stands for.

    Args:
        handle: A text, or something with a `url` or `dsn`.
        named: The fixture, for the message.
    """
    found = handle if isinstance(handle, str) else getattr(handle, "url", None) or getattr(handle, "dsn", None)
    assert isinstance(found, str), f"the fixture {named!r} gives neither a text nor a `url` or `dsn`"  # noqa: S101
    return found
