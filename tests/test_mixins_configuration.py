"""ConfigurationMixin: a service's own section, declared or not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from svcframework.config import ConfigManager, ServiceConfig
from svcframework.errors import ConfigurationError
from svcframework.mixins import ConfigurationMixin
from svcframework.service import BaseService


class MailConfig(ServiceConfig, prefix="mail"):
    sender: str = "nobody@example.org"


class Declared(BaseService[MailConfig], ConfigurationMixin):
    pass


class MailService(BaseService[ServiceConfig], ConfigurationMixin):
    pass


class MixinFirst(ConfigurationMixin, BaseService[ServiceConfig], name="mail_service"):
    pass


def service_with(values: dict[str, Any], kind: type[Any] = MailService, **environ: str) -> Any:
    service = kind()
    service.host = SimpleNamespace(config=ConfigManager(values, environ=environ, root="/nonexistent"))
    return service


@pytest.mark.parametrize("kind", [MailService, MixinFirst])
def test_own_section_is_found_by_name(kind: type[Any]) -> None:
    """The service's whole name comes first, then the short one, whatever the order of bases."""
    both = service_with({"mail_service": {"smtp": {"port": 1}}, "mail": {"smtp": {"port": 2}}}, kind)
    assert 1 == both.get_config("smtp.port")
    assert 2 == service_with({"mail": {"smtp": {"port": 2}}}, kind).get_config("smtp.port")


def test_default_where_nobody_sets_it() -> None:
    """The default is returned as it is; has_config tells the difference."""
    service = service_with({"mail": {"a": None}})
    assert 25 == service.get_config("smtp.port", 25)
    assert service.get_config("smtp.port", None) is None
    assert [False, True, True] == [service.has_config(path) for path in ("smtp.port", "a", "version")]


def test_text_is_read_as_the_defaults_type() -> None:
    """A number in the environment comes as a number; what is none is an error that names the variable."""
    service = service_with({}, MAIL__SMTP__PORT="2525", MAIL__RETRIES="many")
    assert 2525 == service.get_config("smtp.port", 25)
    with pytest.raises(ConfigurationError, match="MAIL__RETRIES"):
        service.get_config("retries", 3)


def test_declared_setting_comes_from_the_config() -> None:
    """What the model declares is the validated value, its default included."""
    assert "nobody@example.org" == service_with({}, Declared).get_config("sender")
    service = service_with({"mail": {"sender": "a@b.c"}}, Declared)
    assert "a@b.c" == service.get_config("sender", "x")


def test_extra_settings_of_a_model_are_found() -> None:
    """A model that allows more than it declares gives it to get_config."""

    class OpenConfig(ServiceConfig, prefix="mail", extra="allow"):
        pass

    class Open(BaseService[OpenConfig], ConfigurationMixin):
        pass

    assert 2 == service_with({"mail": {"smtp": {"port": 2}}}, Open).get_config("smtp.port")


def test_missing_setting_names_where_it_could_be_set() -> None:
    """Without a default the error names the service, the setting and its sections."""
    with pytest.raises(ConfigurationError, match=r"mail_service\.key or mail\.key"):
        service_with({}).get_config("key")


def test_other_settings_objects_are_read() -> None:
    """A settings object that is no ServiceConfig is searched by attributes and keys."""
    service = MailService(SimpleNamespace(smtp={"port": 7}, prefix="x"))
    assert 7 == service.get_config("smtp.port")
