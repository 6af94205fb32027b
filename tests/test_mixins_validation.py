"""ValidationMixin: all problems at once, with paths and without values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from svcframework.errors import DataValidationError
from svcframework.mixins import ValidationMixin
from svcframework.service import BaseService


class Validating(BaseService, ValidationMixin):  # type: ignore[type-arg]
    pass


class ItemModel(BaseModel):
    price: float


class OrderModel(BaseModel):
    name: str
    items: list[ItemModel]


@dataclass
class ItemData:
    price: float


@dataclass
class OrderData:
    name: str
    items: list[ItemData]


class ItemStruct(msgspec.Struct):
    price: float


class OrderStruct(msgspec.Struct):
    name: str
    items: list[ItemStruct]


class ShipmentStruct(msgspec.Struct, forbid_unknown_fields=True):
    order: OrderStruct
    weight: int
    note: str = ""


MODELS = [OrderModel, OrderData, OrderStruct]


@pytest.mark.parametrize("model", MODELS)
def test_good_data_becomes_an_instance(model: type[Any]) -> None:
    """Mappings, JSON and instances are all accepted."""
    service = Validating()
    order = service.validate(model, {"name": "a", "items": [{"price": 1}]})
    assert 1.0 == order.items[0].price
    assert order == service.validate(model, b'{"name": "a", "items": [{"price": 1}]}')
    assert order is service.validate(model, order)


@pytest.mark.parametrize("model", MODELS)
def test_all_problems_at_once_with_paths_and_no_values(model: type[Any]) -> None:
    """Each field has its path; the rejected value is nowhere in the error or its causes."""
    with pytest.raises(DataValidationError) as raised:
        Validating().validate(model, {"items": [{"price": 1}, {"price": "hunter2"}]})
    error = raised.value
    assert {"name", "items[1].price"} == set(error.problems)
    assert model.__name__ in str(error)
    assert "hunter2" not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None


def test_nested_structs_are_gone_through() -> None:
    """Where msgspec stops at the first problem, all of several levels are found, unknown fields included."""
    with pytest.raises(DataValidationError) as raised:
        Validating().validate(ShipmentStruct, {"order": {"name": 1, "items": 2}, "weight": "x", "colour": "red"})
    assert {"order.name", "order.items", "weight", "colour"} == set(raised.value.problems)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("data", [b"{", "{", [], None, 7])
def test_what_is_no_object_is_refused(model: type[Any], data: object) -> None:
    """Broken JSON and other types are validation errors, too."""
    with pytest.raises(DataValidationError):
        Validating().validate(model, data)


def test_strict_refuses_conversions() -> None:
    """A number in text is converted by default and refused when strict."""
    service = Validating()
    for model in (ItemModel, ItemData, ItemStruct):
        assert 1.5 == service.validate(model, {"price": "1.5"}).price
        with pytest.raises(DataValidationError):
            service.validate(model, {"price": "1.5"}, strict=True)


def test_generic_types_are_models_too() -> None:
    """A list of models validates with the index in the path."""
    service = Validating()
    assert [1.0] == [item.price for item in service.validate(list[ItemModel], [{"price": 1}])]
    with pytest.raises(DataValidationError) as raised:
        service.validate(list[ItemModel], [{"price": 1}, {}])
    assert ["[1].price"] == list(raised.value.problems)


def test_required_fields() -> None:
    """Missing, null and blank fields are all named; zero and False count as filled in."""
    service = Validating()
    data = {"a": 0, "b": False, "c": None, "d": "  ", "user": {"name": "x", "mail": ""}}
    service.validate_required_fields(data, ["a", "b", "user.name"])
    with pytest.raises(DataValidationError) as raised:
        service.validate_required_fields(data, ["a", "c", "d", "e", "user.mail", "user.age", "a.b"])
    assert {"c", "d", "e", "user.mail", "user.age", "a.b"} == set(raised.value.problems)
    with pytest.raises(DataValidationError, match="User"):
        service.validate_required_fields(data, ["e"], subject="User")
