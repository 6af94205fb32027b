"""Finds the settings of one model in the sources and makes the model of them; knows nothing of services."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from svcframework._modelfields import decoded, root_names, spellings, steps_of
from svcframework._settingtext import Subject, problems
from svcframework._sources import MISSING, Layer, Steps, Text, descend, merged, parsed_json, plain
from svcframework.errors import ConfigurationError

ModelT = TypeVar("ModelT", bound=BaseModel)

Groups = tuple[tuple[Steps, ...], ...]
ROOT: Groups = (((),),)


class Lookup(Generic[ModelT]):
    """Finds the values of one model in the layers; lives for one reading."""

    def __init__(self, model: type[ModelT], groups: Groups, layers: tuple[Layer, ...]) -> None:
        self.model, self.groups, self.layers = model, groups, layers
        self.section: Steps = groups[0][-1] if groups[0] else ()
        self._names = spellings(model)
        self._roots = {name: list(map(steps_of, root_names(info))) for name, info in model.model_fields.items()}
        self._given: Mapping[str, Any] = {}

    def gather(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all sources, joined, by field name; `given` wins."""
        self._given = self._renamed(given)
        data: Any = {}
        for table in self._tables():
            if table:
                data = merged(data, table)
        data = merged(data, self._given)
        fields = self.model.model_fields
        return {
            key: plain(decoded(fields[key].annotation, value) if key in fields else value)
            for key, value in data.items()
        }

    def _tables(self) -> Iterator[Mapping[str, Any]]:
        """All that may apply, the weakest first."""
        for group in reversed(self.groups):
            for layer in reversed(self.layers):
                if group is self.groups[-1]:
                    for name, roots in self._roots.items():
                        for steps in reversed(roots):
                            if (value := layer.find(steps)) is not MISSING:
                                yield {name: value}
                for section in reversed(group):
                    yield self._renamed(_table(layer, section))

    def _renamed(self, table: Mapping[str, Any]) -> dict[str, Any]:
        if self.groups is ROOT:  # the root has every variable of the process and every section
            return {self._names[key]: value for key, value in table.items() if key in self._names}
        return {self._names.get(key, key): value for key, value in table.items()}

    def origin(self, steps: Steps) -> str | None:
        """The place of a value, or of the text that it was in; None when no source has it."""
        if descend(self._given, steps) is not MISSING:
            return "argument"
        words = [word for word, name in self._names.items() if name == steps[0]] or [steps[0]]
        for group in self.groups:
            for layer in self.layers:
                paths = [(section, (word, *steps[1:])) for section in group for word in words]
                for section, below in paths:
                    if descend(_table(layer, section), below) is not MISSING:
                        return layer.place((*section, *below))
                for root in self._roots.get(steps[0], ()) if group is self.groups[-1] else ():
                    if layer.find((*root, *steps[1:])) is not MISSING:
                        return layer.place((*root, *steps[1:]))
        return self.origin(steps[:-1]) if len(steps) > 1 else None

    def places(self, data: Mapping[str, Any], above: Steps = ()) -> dict[str, str]:
        """The origin of every value that isn't a default, by dotted name below the section."""
        found: dict[str, str] = {}
        for key, value in data.items():
            steps = (*above, key)
            if isinstance(value, Mapping) and value:
                found |= self.places(value, steps)
            elif (origin := self.origin(steps)) is not None:
                found[".".join(steps)] = origin
        return found

    def validate(
        self,
        data: dict[str, Any],
        *,
        who: str,
        build: Callable[[type[ModelT], dict[str, Any]], ModelT] | None = None,
    ) -> ModelT:
        """The model of the values, or one error with everything that is wrong with them."""
        try:
            if build is not None:
                return build(self.model, data)
            return self.model.model_validate(data, by_alias=True, by_name=True)
        except ValidationError as error:
            details = error.errors(include_url=False)
        # Raised out here: the error of pydantic, with all values in it, would else hang on ours as its context.
        lines = problems(Subject(self.model, data, self.section, self.origin), details)
        of = f" of {who} ({self.model.__name__})" if who else f" {self.model.__name__}"
        raise ConfigurationError(f"Configuration{of}: {len(lines)} problem{'s' if len(lines) != 1 else ''}", lines)


def _table(layer: Layer, section: Steps) -> Mapping[str, Any]:
    """The section in a source; a variable may hold all of it as JSON."""
    table = layer.find(section)
    if isinstance(table, Text):
        table = parsed_json(table)
    return table if isinstance(table, Mapping) else {}


def given_values(model: type[BaseModel], values: Any) -> dict[str, Any]:
    if values is None:
        return {}
    if isinstance(values, Mapping):
        return dict(values)
    if isinstance(values, BaseModel):
        return {name: getattr(values, name) for name in values.model_fields_set}
    reason = f"the values must be a mapping or a {model.__name__}, not {type(values).__name__}"
    raise ConfigurationError(f"Configuration {model.__name__}", [reason])


def first_keys(model: type[BaseModel], sections: Groups) -> set[str]:
    """The root's keys below which a setting of the model could be: its sections, and its fields' own root names."""
    if "__svc_roots__" not in vars(model):
        names = [steps_of(name) for info in model.model_fields.values() for name in root_names(info)]
        type.__setattr__(model, "__svc_roots__", frozenset(steps[0] for steps in names if steps))
    roots: frozenset[str] = vars(model)["__svc_roots__"]
    return {*roots, *(section[0] for group in sections for section in group)}
