"""Plugins are found without being imported, and what goes wrong while one is loaded stays with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from svcframework.discovery import (
    DiscoveredService,
    FailureKind,
    LoadedPlugin,
    PluginCatalogue,
    PluginFailure,
    discover_services,
    load_plugin,
)
from svcframework.errors import PluginError

PLUGINS = Path(__file__).parent / "fixtures" / "plugins"


@pytest.fixture
def install(monkeypatch):
    """Puts fixture distributions on the path, for one test."""

    def put(*folders: str) -> None:
        for folder in folders:
            monkeypatch.syspath_prepend(str(PLUGINS / folder))

    before = set(sys.modules)
    yield put
    for name in set(sys.modules) - before:
        if name.startswith("fixture_"):
            del sys.modules[name]


def found(name: str) -> DiscoveredService:
    return next(one for one in discover_services() if one.name == name)


def test_discovery_reads_metadata_and_imports_nothing(install):
    """Name, place, distribution and version are known, and even a plugin that can't be imported is listed."""
    install("good", "raising")

    services = {one.name: one for one in discover_services()}

    assert (
        DiscoveredService("good_service", "fixture_good:GoodService", "fixture-good", "1.2.3")
        == (services["good_service"])
    )
    assert "raising_service" in services
    assert not {"fixture_good", "fixture_raising"} & set(sys.modules)


def test_discovered_services_are_ordered_by_name(install):
    """The order doesn't depend on the path."""
    install("good", "wrong_api", "clash_two", "clash_one")

    names = [(one.name, one.distribution) for one in discover_services()]

    assert sorted(names) == names


@pytest.mark.parametrize("name", ["good_service", "good_factory"])
def test_class_and_factory_are_loaded(install, name):
    """Either can make the service."""
    install("good")

    plugin = load_plugin(found(name))

    assert isinstance(plugin, LoadedPlugin)
    assert "GoodService" == type(plugin.service()).__name__
    assert name == plugin.name


@pytest.mark.parametrize(
    ("folder", "name", "kind", "words"),
    [
        ("raising", "raising_service", FailureKind.RAISED, "RuntimeError: the import went wrong"),
        ("exiting", "exiting_service", FailureKind.EXITED, "exit code 3"),
        ("wrong_api", "future_service", FailureKind.API_VERSION, "plugin API 99, this is 1"),
        ("not_a_service", "number_service", FailureKind.NOT_A_SERVICE, "is a int"),
        ("not_a_service", "abstract_service", FailureKind.NOT_A_SERVICE, "abstract class Abstract"),
        ("not_a_service", "module_service", FailureKind.NOT_A_SERVICE, "is a module"),
        ("not_a_service", "absent_service", FailureKind.RAISED, "AttributeError"),
    ],
)
def test_what_goes_wrong_is_kept_as_data(install, folder, name, kind, words):
    """Nothing that a plugin does while it is imported gets out; kind and reason are known."""
    install(folder)

    failure = load_plugin(found(name))

    assert isinstance(failure, PluginFailure)
    assert kind is failure.kind
    assert words in failure.reason
    assert f"Plugin {name!r}" in str(failure.as_error())


def test_malformed_entry_point_is_kept_as_data():
    """A value that is no `module:attribute` fails like a plugin that raises."""
    failure = load_plugin(DiscoveredService("odd", "not a module!"))

    assert isinstance(failure, PluginFailure)
    assert FailureKind.RAISED is failure.kind


def test_hanging_import_times_out_and_lets_the_process_end():
    """The others are loaded, the culprit is named, and the interpreter exits although its thread still hangs."""
    program = (
        "from svcframework.discovery import PluginCatalogue\n"
        "catalogue = PluginCatalogue()\n"
        "outcomes = catalogue.load(['hanging_service', 'good_service'], timeout=1.0)\n"
        "print(outcomes['hanging_service'].kind.value, type(outcomes['good_service']).__name__)\n"
    )
    path = os.pathsep.join([str(PLUGINS / "hanging"), str(PLUGINS / "good"), *sys.path])

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "timed out LoadedPlugin" == done.stdout.strip()


@pytest.mark.parametrize("entry", ["good_service", "fixture-good", "Fixture_Good"])
def test_denied_plugin_is_not_imported(install, entry):
    """The deny-list takes names of services and of distributions, however these are spelt."""
    install("good")

    failure = load_plugin(found("good_service"), deny=[entry])

    assert isinstance(failure, PluginFailure)
    assert FailureKind.DENIED is failure.kind
    assert "fixture_good" not in sys.modules


def test_only_what_is_on_the_allow_list_is_imported(install):
    """An allow-list refuses all else; deny wins over allow."""
    install("good")
    good = found("good_service")

    refused = load_plugin(good, allow=["other_service"])
    denied = load_plugin(good, allow=["good_service"], deny=["good_service"])
    allowed = load_plugin(good, allow=["fixture-good"])

    assert isinstance(refused, PluginFailure)
    assert FailureKind.NOT_ALLOWED is refused.kind
    assert isinstance(denied, PluginFailure)
    assert FailureKind.DENIED is denied.kind
    assert isinstance(allowed, LoadedPlugin)


def test_name_clash_is_refused_until_one_is_denied(install):
    """Two distributions that offer one name are both unusable, and the error names them and the way out."""
    install("clash_one", "clash_two")

    with pytest.raises(PluginError, match=r"fixture-clash-one and fixture-clash-two both offer it.*deny"):
        PluginCatalogue().find("clashing_service")
    outcomes = PluginCatalogue(deny=["fixture-clash-two"]).load(["clashing_service"])

    chosen = outcomes["clashing_service"]
    assert isinstance(chosen, LoadedPlugin)
    assert "fixture-clash-one" == chosen.found.distribution


def test_catalogue_keeps_failures_beside_what_works(install):
    """One plugin that fails prevents no other, and stays on record."""
    install("good", "raising", "wrong_api")
    catalogue = PluginCatalogue()

    outcomes = catalogue.load(["good_service", "raising_service"])

    assert ["good_service", "raising_service"] == list(outcomes)
    assert ["good_service"] == [plugin.name for plugin in catalogue.loaded]
    assert ["raising_service"] == [failure.name for failure in catalogue.failures]
    assert "fixture_wrong_api" not in sys.modules
    with pytest.raises(PluginError, match="the import went wrong"):
        catalogue.find("raising_service")


def test_concurrent_loads_import_once(install):
    """Several threads that load the same plugin get the same outcome."""
    install("good")
    catalogue = PluginCatalogue()
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(catalogue.load(["good_service"])["good_service"]))
        for _ in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8 == len(outcomes)
    assert 1 == len({id(outcome) for outcome in outcomes})


def test_unknown_plugin_error_says_what_to_install():
    """A known name comes with the distribution that brings it, a misspelt one with the nearest."""
    catalogue = PluginCatalogue([DiscoveredService("mail_service", "mail:Mail")])

    with pytest.raises(PluginError, match="pip install svcframework-redis"):
        catalogue.find("redis_service")
    with pytest.raises(PluginError, match="'redis_service' comes with pip install svcframework-redis"):
        catalogue.find("reddis_service")
    with pytest.raises(PluginError, match="did you mean 'mail_service'"):
        catalogue.load(["mial_service"])
    with pytest.raises(PluginError, match="installed: mail_service"):
        catalogue.find("zzzzzzzz")
