"""What is declared, by name and by group."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from svcframework._types import Lifetime, Location
from svcframework.errors import RegistrationError, ServiceNotFoundError
from svcframework.registry import Make, ServiceDescriptor, ServiceRegistry, as_names


class UserService: ...


class Special(UserService):
    service_name = "vip"


HERE = Location("app.py", 7)


def registry_of(*targets: Any) -> ServiceRegistry:
    registry = ServiceRegistry()
    for target in targets:
        registry.add(ServiceDescriptor.describe(target))
    return registry


def test_name_comes_from_the_class() -> None:
    """Snake case, unless the class has a name of its own or one is given."""
    names = [ServiceDescriptor.describe(UserService).name, ServiceDescriptor.describe(Special).name]
    assert ["user_service", "vip", "given"] == [*names, ServiceDescriptor.describe(Special, name="given").name]


@pytest.mark.parametrize(
    ("target", "name", "said"),
    [
        (42, None, "register_instance"),
        (lambda: None, None, "pass name="),
        (functools.partial(UserService), None, "pass name="),
        (UserService, "user-service", "can't be a service's name"),
        (UserService, "a..b", "can't be a service's name"),
    ],
)
def test_useless_declarations_are_refused(target: Any, name: str | None, said: str) -> None:
    """At once, with the place and the fix."""
    with pytest.raises(RegistrationError) as caught:
        ServiceDescriptor.describe(target, name=name, at=HERE)
    assert said in str(caught.value)
    assert "app.py:7" in str(caught.value)


def test_second_of_a_name_is_kept_for_the_report_or_refused() -> None:
    """`add` notes it, `register` raises and names both places."""
    registry = ServiceRegistry()
    first = registry.add(ServiceDescriptor.describe(UserService, at=HERE))
    second = ServiceDescriptor.describe(Special, name="user_service", at=Location("late.py", 9))
    assert first is registry.add(second)
    assert [(first, second)] == registry.duplicates
    with pytest.raises(RegistrationError) as caught:
        registry.register(second)
    assert "app.py:7" in str(caught.value)
    assert "late.py:9" in str(caught.value)


def test_groups_keep_the_order_of_joining() -> None:
    """Whether a service names its group or the group its services."""
    registry = registry_of(UserService)
    registry.register_group("all", ["later", "user_service"])
    registry.add(ServiceDescriptor.describe(Special, groups=("all",)))
    assert ("later", "user_service", "vip") == registry.group("all")
    registry.unregister("vip")
    assert ("later", "user_service") == registry.group("all")


def test_unknown_names_are_errors_with_the_nearest() -> None:
    """For services and groups alike."""
    registry = registry_of(UserService)
    for ask in (registry.__getitem__, registry.unregister):
        with pytest.raises(ServiceNotFoundError, match="Did you mean 'user_service'"):
            ask("user_servcie")
    with pytest.raises(ServiceNotFoundError):
        registry.group("none")


def test_registry_reads_like_a_mapping() -> None:
    """In the order of declaration, by name and by type."""
    registry = registry_of(Special, UserService)
    assert (["vip", "user_service"], 2, True) == (list(registry), len(registry), "vip" in registry)
    assert (["vip", "user_service"], ["vip"]) == (registry.of_type(UserService), registry.of_type(Special))


def test_every_change_makes_a_new_version() -> None:
    """Who has read an older one can tell."""
    registry = registry_of(UserService)
    before = registry.version
    registry.replace("user_service", lifetime=Lifetime.TRANSIENT)
    registry.register_group("g", ["user_service"])
    registry.unregister("user_service")
    assert before + 3 == registry.version


def test_small_things() -> None:
    """One word is one name; what is given nothing shares it."""
    assert (("a",), ("a", "b")) == (as_names("a"), as_names(["a", "b"]))
    assert Make(str).kwargs is Make(int).kwargs
    assert "user_service (UserService)" == ServiceDescriptor.describe(UserService).label
