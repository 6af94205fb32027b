"""Settings are found in all sources, their origin is known, and no error or repr shows a value."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, AnyUrl, BaseModel, Field, PostgresDsn, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from svcframework import config
from svcframework._types import Restart
from svcframework.config import (
    ConfigManager,
    Environment,
    SecretUrl,
    ServiceConfig,
    describe_config,
    get_config_manager,
    get_config_value,
    load_config,
    load_settings,
    set_config_manager,
    settings_origins,
    use_config_manager,
)
from svcframework.errors import ConfigurationError

CANARY = "canary-7f3a-hunter2"


class Pool(BaseModel):
    least: int = 0
    most: Annotated[int, Field(gt=0, description="Connections at most.")] = 10


class PostgresConfig(ServiceConfig, prefix="database"):
    host: str = "localhost"
    port: int = 5432
    password: SecretStr | None = None
    pool: Pool = Pool()
    tags: list[str] = Field(default=[])
    timeout: float | None = Field(default=5.0, description="Seconds a call may take.")


class PubSubConfig(ServiceConfig, prefix="pubsub"):
    backend: str = Field(default="memory", validation_alias=AliasChoices("PUBSUB_BACKEND"))
    url: SecretUrl | None = Field(default=None, validation_alias=AliasChoices("PUBSUB_URL", "DATABASE_URL"))


@pytest.fixture
def manager(tmp_path):
    """Makes managers that see nothing of this machine."""

    def make(values=None, *, toml="", dotenv=None, secrets=None, environment=None, **environ) -> ConfigManager:
        (tmp_path / "settings.toml").write_text(toml)
        if dotenv is not None:
            (tmp_path / ".env").write_text(dotenv)
        directory = tmp_path / "secrets"
        directory.mkdir(exist_ok=True)
        for name, text in (secrets or {}).items():
            (directory / name).write_text(text)
        return ConfigManager(values, root=tmp_path, environ=environ, environment=environment, secrets=directory)

    return make


# --- sources --------------------------------------------------------------------------------------------


def test_stronger_source_wins_and_every_origin_is_known(manager):
    """Arguments, environment, .env, secrets, the environment's table, the rest of the file: in this order."""
    toml = "[s]\na=6\nb=6\nc=6\nd=6\ne=6\nf=6\n[production.s]\na=5\nb=5\nc=5\nd=5\ne=5\n"
    m = manager(
        {"s.a": 1},
        S__A="2",
        S__B="2",
        dotenv="S__A=3\n\n# a comment\nS__B=3\nexport S__C='3'\n",
        secrets={"s__a": "4", "s__b": "4", "s__c": "4", "s__d": "4\n"},
        toml=toml,
        environment="production",
    )

    assert [1, 2, 3, 4, 5, 6] == [m.get(f"s.{key}", 0) for key in "abcdef"]
    assert [
        "argument",
        "environment S__B",
        ".env line 5",
        "secrets s__d",
        "settings.toml [production]",
        "settings.toml",
        "default",
    ] == [m.origin(f"s.{key}") for key in "abcdefg"]


def test_table_joins_all_sources(manager):
    """A section is what all sources say together, in a dict of its own."""
    m = manager(toml="[s]\na=1\n[s.deep]\nb=2\n", S__DEEP__C="3")

    table = m.get("s")
    table["deep"].clear()

    assert {"a": 1, "deep": {"b": 2, "c": "3"}} == m.get("s")


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("7", 30, 7),
        ("0.5", 1.0, 0.5),
        ("yes", False, True),
        ("a, b", [], ["a", "b"]),
        ('{"x": 1}', {}, {"x": 1}),
        ("7", "", "7"),
    ],
)
def test_text_is_read_as_the_type_of_the_default(manager, text, default, expected):
    """An undeclared variable has no type but its default's."""
    assert expected == manager(EXTERNAL_SERVICES__VALUE=text).get("external_services.value", default)


def test_text_that_does_not_fit_the_default_is_an_error_without_the_value(manager):
    """The setting and its place are told."""
    with pytest.raises(
        ConfigurationError, match=r"external.timeout must be a valid integer.*EXTERNAL__TIMEOUT"
    ) as caught:
        manager(EXTERNAL__TIMEOUT=CANARY).get("external.timeout", 30)

    assert CANARY not in str(caught.value)


def test_missing_value_names_path_variable_and_sources(manager):
    """Without a default the error says where it was looked for and what looks like it."""
    m = manager(EXTERNAL__API_KEY="x")

    with pytest.raises(ConfigurationError) as caught:
        m.get("external.api_kye")

    told = str(caught.value)
    assert "external.api_kye is not set: set EXTERNAL__API_KYE" in told
    assert "Did you mean 'api_key'?" in told
    assert "environment, .env, secrets, settings.toml [development], settings.toml" in told
    assert None is m.get("external.api_kye", None)


def test_lists_are_entered_by_index(manager):
    """A dotted path may hold an index."""
    m = manager(toml="[[servers]]\nhost='a'\n[[servers]]\nhost='b'\n")

    assert "b" == m.get("servers.1.host")
    assert "servers.1.host" in m
    assert "servers.2.host" not in m


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Environment.DEVELOPMENT),
        ({"ENVIRONMENT": "staging"}, Environment.STAGING),
        ({"ENVIRONMENT": "staging", "APP_ENV": "Testing"}, Environment.TESTING),
        ({"APP_ENV": "testing", "SVC_ENVIRONMENT": "prod"}, Environment.PRODUCTION),
    ],
)
def test_environment_is_read_from_its_variables(manager, environ, expected):
    """The framework's own variable comes first; short names are understood."""
    assert expected is manager(**environ).environment


def test_unknown_environment_is_refused(manager):
    """A misspelt environment must not silently be development."""
    with pytest.raises(ConfigurationError, match=r"development, testing, staging, production.*environment APP_ENV"):
        _ = manager(APP_ENV="produktion").environment


def test_environment_may_come_from_dotenv(manager):
    """A laptop's .env decides where the process's environment is silent."""
    assert "testing" == manager(dotenv="APP_ENV=testing\n").environment.value


def test_dotenv_interpolates(manager):
    """A later line may use an earlier one or the environment."""
    m = manager(dotenv="HOST=h\nS__URL=http://${HOST}:${PORT:-80}${SUFFIX}\n", SUFFIX="/x")

    assert "http://h:80/x" == m.get("s.url")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"toml": "a = [1,\n"}, "settings.toml can't be read"),
        ({"toml": "a = " + "[" * 30 + "]" * 30}, "nested deeper than 20 levels"),
        ({"toml": "a = " + "[" * 5000 + "]" * 5000}, "nested deeper than 20 levels"),
        ({"toml": "#" + "x" * 1024 * 1024}, "larger than 1048576 bytes"),
        ({"toml": "development = 1"}, r"\[development\] must be a table"),
        ({"dotenv": "A=1\nnot an assignment\n"}, "line 2 is not of the form"),
        ({"secrets": {"s__key": "x" * 70_000}}, "s__key can't be read"),
    ],
)
def test_hostile_or_broken_files_are_refused(manager, files, words):
    """Size and depth are limited, and a file that can't be understood is never half used."""
    with pytest.raises(ConfigurationError, match=words):
        manager(**files).get("a", None)


def test_deep_json_in_a_variable_is_no_section(manager):
    """A variable can't exhaust the stack."""
    m = manager(DATABASE='{"a":' * 5000 + "1" + "}" * 5000)

    assert "localhost" == m.section(PostgresConfig).host


def test_foreign_variables_do_no_harm(manager):
    """Names with odd underscores, and a value beside a table of the same name, are kept apart."""
    m = manager(__CF_USER="1", A____B="2", DATABASE="text", DATABASE__HOST="h")

    assert "h" == m.section(PostgresConfig).host
    assert "h" == m.get("database.host")


def test_upper_case_variable_wins(manager):
    """Two spellings of one name give the same answer whatever their order."""
    assert "upper" == manager(s__a="lower", S__A="upper").get("s.a")
    assert "upper" == manager(S__A="upper", s__a="lower").get("s.a")


def test_nothing_is_read_before_the_first_question(manager, tmp_path):
    """A manager opens no file when it is made, and what it has read it keeps."""
    m = manager()
    (tmp_path / "settings.toml").write_text("[s]\na = 1\n")
    assert 1 == m.get("s.a")
    (tmp_path / "settings.toml").write_text("[s]\na = 2\n")

    assert 1 == m.get("s.a")
    assert 2 == m.reload().get("s.a")


def test_threads_read_once(manager):
    """Many threads that ask first share one reading."""
    m = manager(S__A="1")
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(m._sources())) for _ in range(16)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 16 == len(seen)
    assert 1 == len({id(sources) for sources in seen})


def test_import_opens_no_file_for_writing_and_no_socket():
    """Importing the modules neither writes nor connects, and doesn't load pydantic-settings."""
    program = (
        "import sys, pydantic\n"
        "sys.dont_write_bytecode = True\n"
        "bad = []\n"
        "def hook(event, args):\n"
        "    writes = event == 'open' and set('wax+') & set(str(args[1]))\n"
        "    if writes or event.startswith(('socket.', 'subprocess.')):\n"
        "        bad.append((event, args))\n"
        "sys.addaudithook(hook)\n"
        "import svcframework.config, svcframework.utils, svcframework.discovery\n"
        "print(bad, 'pydantic_settings' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert "[] False" == done.stdout.strip()


# --- sections -------------------------------------------------------------------------------------------


def test_service_named_after_its_prefix_shares_the_section(manager):
    """`database_service` reads DATABASE__HOST, which beats a file's [database_service] as any variable does."""
    m = manager(toml="[database_service]\nhost='file'\nport=1\n", DATABASE__HOST="variable")

    settings = load_config(PostgresConfig, name="database_service", manager=m)

    assert ("variable", 1) == (settings.host, settings.port)
    assert "database_service" == settings.name


def test_other_name_is_a_section_of_its_own(manager):
    """The replica keeps its host whatever the shared section says, and takes from there what it leaves open."""
    m = manager(toml="[replica]\nhost='replica'\n", DATABASE__HOST="primary", DATABASE__PORT="7")

    settings = m.section(PostgresConfig, name="replica")

    assert ("replica", 7) == (settings.host, settings.port)


def test_given_values_win(manager):
    """A mapping or another model's set fields come before all sources; an instance is taken as it is."""
    m = manager(DATABASE__HOST="variable", DATABASE__POOL__LEAST="3")

    from_mapping = load_config(PostgresConfig, values={"host": "given", "pool": {"most": 4}}, manager=m)
    from_model = load_config(PostgresConfig, values=ServiceConfig(version="2"), manager=m)
    instance = PostgresConfig(host="mine")

    assert ("given", 3, 4) == (from_mapping.host, from_mapping.pool.least, from_mapping.pool.most)
    assert ("variable", "2") == (from_model.host, from_model.version)
    assert instance is load_config(PostgresConfig, values=instance, manager=m)


def test_text_becomes_lists_tables_and_none(manager):
    """A list is JSON or words, a table JSON or nested names, and none is None."""
    m = manager(
        DATABASE__TAGS="a, b", DATABASE__POOL='{"most": 3}', DATABASE__TIMEOUT="none", DATABASE__GROUPS='["g"]',
        DATABASE__RESTART="permanent",
    )  # fmt: skip

    settings = m.section(PostgresConfig)

    assert (["a", "b"], 3, None, ("g",)) == (settings.tags, settings.pool.most, settings.timeout, settings.groups)
    assert Restart.permanent() == settings.restart


def test_section_may_be_one_json_variable(manager):
    """The whole section as JSON, joined with the variables below it."""
    m = manager(DATABASE='{"host": "json", "port": 1}', DATABASE__PORT="2")

    settings = m.section(PostgresConfig)

    assert ("json", 2) == (settings.host, settings.port)


def test_explicit_alias_is_read_from_the_root(manager):
    """PUBSUB_BACKEND and DATABASE_URL work as variables of their own; the first choice and the section come first."""
    aliased = manager(PUBSUB_BACKEND="redis", DATABASE_URL="postgresql://u:p@h/d").section(PubSubConfig)
    sectioned = manager(PUBSUB_BACKEND="redis", PUBSUB__BACKEND="postgres").section(PubSubConfig)
    named = manager(PUBSUB_BACKEND="redis", toml="[pubsub]\nbackend='memory'\n").section(
        PubSubConfig, name="pubsub_service"
    )

    assert "redis" == aliased.backend
    assert aliased.url is not None
    assert "postgresql://u:p@h/d" == aliased.url.get_secret_value()
    assert "postgres" == sectioned.backend
    assert "redis" == named.backend


def test_plain_config_leaves_other_keys_to_the_service(manager):
    """A service without a model of its own may keep keys in its section; they aren't unknown settings."""
    m = manager(USER_SERVICE__FLAVOUR="x", USER_SERVICE__VERSION="3")

    assert "3" == m.section(ServiceConfig, name="user_service").version
    assert "x" == m.get("user_service.flavour")


def test_defaults_are_shared_but_for_the_name(manager):
    """What no source mentions is validated once per class; a mutable default is never shared."""
    m = manager()

    first, second = (m.section(PubSubConfig, name=name) for name in ("a", "b"))
    tags = [m.section(PostgresConfig, name=name).tags for name in ("a", "b")]

    assert ("a", "b") == (first.name, second.name)
    assert m.section(PubSubConfig) is m.section(PubSubConfig)
    assert PubSubConfig() == m.section(PubSubConfig)
    assert tags[0] is not tags[1]


def test_config_is_frozen():
    """A setting can't be changed after the fact."""
    with pytest.raises(ValueError, match="frozen"):
        PostgresConfig().host = "other"


# --- errors and secrets ---------------------------------------------------------------------------------


def test_all_problems_are_told_at_once_without_values(manager):
    """Each line has the setting, what is wrong in words, and the place it came from."""
    m = manager(
        DATABASE__PORT=CANARY, DATABASE__HSOT=CANARY, DATABASE__POOL__MOST="-1", DATABASE__POOL__MOTS=CANARY,
        toml="[database]\ncritical = 'perhaps'\n",
    )  # fmt: skip

    class Strict(PostgresConfig, prefix="database"):
        key: str

    with pytest.raises(ConfigurationError) as caught:
        m.section(Strict, name="database_service")

    assert "Configuration of database_service (Strict): 5 problems" == caught.value.title
    assert [
        "database.critical (DATABASE__CRITICAL) must be true or false; it comes from: settings.toml",
        "database.hsot is not a setting; it comes from: environment DATABASE__HSOT. Did you mean 'host'?",
        "database.key (DATABASE__KEY) is required and not set: set DATABASE__KEY, or database.key in settings.toml",
        "database.pool.most must be greater than 0; it comes from: environment DATABASE__POOL__MOST",
        "database.port must be a whole number; it comes from: environment DATABASE__PORT",
    ] == sorted(caught.value.problems)
    assert CANARY not in str(caught.value)
    assert None is caught.value.__context__


@pytest.mark.parametrize(
    "error", [ValueError(f"{CANARY} is too short"), PydanticCustomError("odd", CANARY + " is odd")]
)
def test_validators_own_message_is_scrubbed(manager, error):
    """A validator that quotes what it was given doesn't give it away, whatever error it raises."""

    class Quoting(ServiceConfig, prefix="quoting"):
        token: str = ""

        @field_validator("token")
        @classmethod
        def _check(cls, value: str) -> str:
            raise error

    with pytest.raises(ConfigurationError, match=r"quoting.token is not valid: \*\*\* is (odd|too short)") as caught:
        manager(QUOTING__TOKEN=CANARY).section(Quoting)

    assert CANARY not in str(caught.value)


def test_union_members_give_one_line(manager):
    """A setting of several types is one problem, not one per type."""

    class Either(ServiceConfig, prefix="either"):
        size: int | bool = 1

    with pytest.raises(ConfigurationError) as caught:
        manager(EITHER__SIZE="x").section(Either)

    assert (
        "either.size must be a whole number or must be true or false; it comes from: environment EITHER__SIZE",
    ) == caught.value.problems


@given(
    st.dictionaries(
        st.sampled_from(["port", "password", "pool", "tags", "restart", "critical", "url"]), st.just(CANARY)
    )
)
def test_no_error_shows_a_value(values):
    """Whatever setting is malformed, its value is in no error."""

    class Everything(PostgresConfig, prefix="everything"):
        url: SecretUrl | None = None

    m = ConfigManager(environ={}, root="missing", secrets=None, environment="testing")
    try:
        shown = repr(m.section(Everything, values=values))
    except ConfigurationError as error:
        shown = f"{error!s} {error!r} {error.__context__!r}"

    assert CANARY not in shown


def test_secrets_are_in_no_repr(manager):
    """Secret types, addresses with credentials, and names that say so are masked, nested ones too."""

    class Inner(BaseModel):
        password: str = CANARY

    class Secretive(ServiceConfig, prefix="secretive"):
        key: SecretStr = SecretStr(CANARY)
        api_key: str = CANARY
        url: SecretUrl = SecretUrl(f"redis://:{CANARY}@h/0?token={CANARY}")
        dsn: PostgresDsn = PostgresDsn(f"postgresql://u:{CANARY}@h/d")
        other: AnyUrl = AnyUrl(f"http://u:{CANARY}@h")
        inner: Inner = Inner()
        headers: dict[str, str] = Field(default={"token": CANARY})

    m = manager(SECRETIVE__API_KEY=CANARY)
    settings = m.section(Secretive)

    shown = [repr(settings), str(settings), repr(m), str(settings_origins(settings)), describe_config(Secretive)]
    assert CANARY not in "".join(shown)
    assert "redis://**********@h/0" == settings.url.redacted


@pytest.mark.parametrize("password", ["p", "p/w", "p@w", "p?w", "p#w", "p:w"])
def test_redacted_address_hides_any_password(password):
    """Signs that should have been escaped don't bring the password to light."""
    assert "db://**********@host/x" == SecretUrl(f"db://user:{password}@host/x").redacted


def test_pydantic_error_of_a_direct_call_has_no_input():
    """Also who builds a config by hand sees no value in the error."""
    with pytest.raises(ValueError, match="port") as caught:
        PostgresConfig(port=CANARY)

    assert CANARY not in str(caught.value)


# --- the application's settings -------------------------------------------------------------------------


class PlainSettings(BaseModel):
    debug: bool = False
    database: PostgresConfig = PostgresConfig()


class AppSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="APP_", env_nested_delimiter="__")
    debug: bool = False
    size: int = 1
    pool: Pool = Pool()
    key: str = Field(default="", validation_alias=AliasChoices("SECRET_KEY"))


def test_plain_model_is_filled_from_the_root(manager):
    """A field is a variable, a nested model a section; what else is there is none of its business."""
    m = manager(toml="debug = true\nother = 1\n", DATABASE__HOST="h", UNRELATED="x")

    settings = load_settings(PlainSettings, m)

    assert (True, "h") == (settings.debug, settings.database.host)


def test_settings_model_keeps_its_own_prefix(manager):
    """Its variables have its prefix, an alias hasn't, and our other sources fill what they leave open."""
    m = manager(
        {"size": 3}, toml="debug=false\n[pool]\nleast=2\n", APP_DEBUG="1", APP_POOL__MOST="4", SECRET_KEY="k", DEBUG="0"
    )

    settings = load_settings(AppSettings, m)

    assert (True, 3, Pool(least=2, most=4), "k") == (settings.debug, settings.size, settings.pool, settings.key)


def test_settings_problems_name_the_variable_with_its_prefix(manager):
    """The error is ours for such models too."""
    with pytest.raises(ConfigurationError) as malformed:
        load_settings(AppSettings, manager(APP_DEBUG=CANARY))
    with pytest.raises(ConfigurationError) as unparsed:
        load_settings(AppSettings, manager(APP_POOL=CANARY))

    assert ("debug must be true or false; it comes from: environment APP_DEBUG",) == malformed.value.problems
    assert ("pool (APP_POOL) must be JSON; it comes from: environment",) == unparsed.value.problems
    assert (
        CANARY not in f"{malformed.value} {malformed.value.__context__} {unparsed.value} {unparsed.value.__context__}"
    )


# --- the current configuration --------------------------------------------------------------------------


def test_current_manager_is_that_of_the_block(manager):
    """Inside the block it is the given one, in this context only; afterwards the one before."""
    m = manager(S__A="1")
    elsewhere = []
    before = get_config_manager()

    with use_config_manager(m):
        inside = get_config_value("s.a", 0)
        thread = threading.Thread(target=lambda: elsewhere.append(get_config_value("s.a", 0)))
        thread.start()
        thread.join()

    assert (1, [0]) == (inside, elsewhere)
    assert before is get_config_manager()


def test_process_manager_is_seen_by_threads(manager):
    """What is set for the process is everybody's; None makes the next use read anew."""
    before = get_config_manager()
    seen = []
    try:
        set_config_manager(manager(S__A="1"))
        thread = threading.Thread(target=lambda: seen.append(get_config_value("s.a")))
        thread.start()
        thread.join()
        set_config_manager(None)
        assert before is not get_config_manager()
    finally:
        set_config_manager(before)

    assert ["1"] == seen


def test_config_value_without_default_raises(manager):
    """A required value that is missing is an error, not None."""
    with (
        use_config_manager(manager()),
        pytest.raises(ConfigurationError, match=r"external_services.api_key is not set"),
    ):
        get_config_value("external_services.api_key")


# --- for readers ----------------------------------------------------------------------------------------


def test_origins_of_a_config(manager):
    """Each setting has its variable, its value and the place that it came from."""
    m = manager(toml="[database.pool]\nmost=3\n", DATABASE__HOST="h", DATABASE__PASSWORD=CANARY)

    told = {one.setting: one for one in settings_origins(m.section(PostgresConfig, name="database_service"))}

    assert ("h", "environment DATABASE__HOST") == (told["database.host"].value, told["database.host"].origin)
    assert ("5432", "default") == (told["database.port"].value, told["database.port"].origin)
    assert ("3", "settings.toml") == (told["database.pool.most"].value, told["database.pool.most"].origin)
    assert "default" == told["database.pool.least"].origin
    assert "registration" == told["database.name"].origin
    assert "DATABASE__POOL__MOST" == told["database.pool.most"].variable
    assert "argument" == {o.setting: o for o in settings_origins(PostgresConfig(host="x"))}["database.host"].origin


def test_reference_table():
    """Own settings come first, with variable, type, bounds, default and description; then everybody's."""
    own, _, common = describe_config(PostgresConfig).partition("Every service has these as well:")

    assert "| `database.pool.most` | `DATABASE__POOL__MOST` | `int > 0` | `10` | Connections at most. |" in own
    assert "| `database.timeout` | `DATABASE__TIMEOUT` | `float \\| None` | `5.0` | Seconds a call may take. |" in own
    assert "| `database.stop_timeout` | `DATABASE__STOP_TIMEOUT` | `float > 0` | `10.0` |" in common
    assert "| `pubsub.backend` | `PUBSUB__BACKEND`, `PUBSUB_BACKEND` |" in describe_config(PubSubConfig)
    assert describe_config(PostgresConfig) == describe_config(PostgresConfig)


def test_as_dict_has_sections_but_not_the_whole_environment(manager):
    """For dependency-injector's Configuration: what has a section, and copies only."""
    m = manager({"x": {"y": 1}}, toml="top = 1\n[s]\na = 1\n", S__B="2", PATH="/bin")

    m.as_dict()["s"].clear()

    assert {"x": {"y": 1}, "top": 1, "s": {"a": 1, "b": "2"}} == m.as_dict()


def test_public_names_are_documented():
    """Every public function and class says what it does."""
    public = [getattr(config, name) for name in vars(config) if not name.startswith("_")]

    assert all(
        one.__doc__ for one in public if getattr(one, "__module__", "") == "svcframework.config" and callable(one)
    )


def test_services_without_settings_get_the_defaults_under_their_own_names(manager):
    """A section that no source mentions is the model's defaults, and each service's copy bears its own name."""
    m = manager(values={"other": {"host": "x"}})

    first, second = (m.section(ServiceConfig, name=name) for name in ("first", "second"))

    assert ("first", "second") == (first.name, second.name)
    assert ServiceConfig(name="first") == first
    told = {one.setting: one.origin for one in settings_origins(first)}
    assert ("registration", "default") == (told["first.name"], told["first.version"])
