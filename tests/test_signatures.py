"""What a callable asks for."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, NamedTuple, Optional, Protocol, TypeVar

import pydantic
import pytest

from svcframework._signatures import EMPTY, Lazy, Want, fits, provided_by, signature_of, want_of

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")


class Service: ...


class Repository(Generic[T]): ...


class Sender(Protocol):
    rate: float

    def send(self, text: str) -> None: ...


@pytest.mark.parametrize(
    ("annotation", "want"),
    [
        (Service, Want(Service)),
        (Service | None, Want(Service, "optional")),
        (Optional[Service], Want(Service, "optional")),  # noqa: UP045 - both ways to write it
        (Lazy[Service], Want(Service, "lazy")),
        (list[Service], Want(Service, "list")),
        (Sequence[Service], Want(Service, "list")),
        (dict[str, Service], Want(Service, "dict")),
        (Repository[int], Want(Repository)),
        (Sender, Want(Sender)),
        (Annotated[Service, "main"], Want("main")),
        (Annotated[Service | None, "main"], Want("main", "optional")),
        (Annotated[Service, 42], Want(Service)),
        (int, None),
        (int | None, None),
        (Service | Sender, None),
        (list[int], None),
        (dict[int, Service], None),
        (Any, None),
        (EMPTY, None),
        ("Service", None),
        (None, None),
    ],
)
def test_annotation_says_what_is_wanted(annotation: Any, want: Want | None) -> None:
    """A type, and in which form; nothing where it could be no service."""
    assert want == want_of(annotation)


class Written:
    def __init__(
        self,
        first: Service,
        /,
        second: list["Service"],  # noqa: UP037 - a name inside an annotation
        third: "Service | None" = None,  # noqa: UP037 - likewise
        *,
        fourth: "Decimal",  # noqa: UP037 - likewise
        fifth=7,
    ) -> None: ...


def test_parameters_are_read_with_their_annotations_evaluated() -> None:
    """Names inside annotations too; what only type checkers know stays text."""
    first, second, third, fourth, fifth = signature_of(Written).parameters
    assert (Want(Service), True) == (first.want, first.positional_only)
    assert (Want(Service, "list"), True) == (second.want, second.is_required)
    assert (Want(Service, "optional"), None) == (third.want, third.default)
    assert ("Decimal", True) == (str(fourth.annotation).strip("'\""), fourth.keyword_only)
    assert (EMPTY, 7, None) == (fifth.annotation, fifth.default, fifth.want)


@dataclass
class Record:
    service: Service
    size: int = 3


class Pair(NamedTuple):
    service: Service
    other: Service | None = None


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    service: Service


class Inherits(Record):
    """Has its base's constructor."""


@pytest.mark.parametrize("made", [Record, Inherits, Model, Pair, Record.__init__.__get__(Record(Service()))])
def test_generated_constructors_are_read(made: Any) -> None:
    """Of dataclasses, named tuples and models, and bound methods."""
    parameter = signature_of(made).get("service")
    assert parameter is not None
    assert Want(Service) == parameter.want


def test_open_ends_are_noted() -> None:
    """`*args` and `**kwargs`, and what has no signature at all."""

    def anything(*args: int, **kwargs: int) -> None: ...

    signature = signature_of(anything)
    assert ((), True, True) == (signature.parameters, signature.takes_any_keyword, signature.takes_any_position)
    assert signature_of(dict).takes_any_keyword


def plain() -> Service: ...
def opened() -> Iterator[Service]:
    yield Service()


def closed() -> Generator[Service, None, None]:
    yield Service()


async def awaited() -> Service: ...
async def streamed() -> AsyncIterator[Service]:
    yield Service()


def silent(): ...
def listing() -> list[Service]: ...


@pytest.mark.parametrize(
    ("factory", "made"),
    [
        (Service, Service),
        (plain, Service),
        (opened, Service),
        (closed, Service),
        (awaited, Service),
        (streamed, Service),
        (functools.partial(plain), Service),
        (Repository[int], Repository),
        (listing, list),
        (silent, object),
        (len, object),
    ],
)
def test_factory_says_what_it_makes(factory: Callable[..., Any], made: type) -> None:
    """Through generators, partial functions and generic aliases; `object` where it does not say."""
    assert made is provided_by(factory)


def test_protocol_is_met_by_shape() -> None:
    """All its members have to be there, annotated ones included."""

    class Whole:
        rate: float

        def send(self, text: str) -> None: ...

    class Part:
        def send(self, text: str) -> None: ...

    assert [True, False, False] == [fits(Whole, Sender), fits(Part, Sender), fits(object, Sender)]
    assert [True, False] == [fits(bool, int), fits(int, bool)]


@pytest.mark.parametrize(
    ("want", "text"),
    [
        (Want("name"), "name"),
        (Want(Service), "Service"),
        (Want(Service, "optional"), "Service | None"),
        (Want(Service, "lazy"), "Lazy[Service]"),
        (Want(Service, "dict"), "dict[str, Service]"),
    ],
)
def test_want_reads_as_it_was_written(want: Want, text: str) -> None:
    """For reports."""
    assert text == str(want)
