"""Values of a plan against the types that the code itself declares: checked by them, and shown as a JSON schema.

So an option that a command gains is an option of plans from then on, with its type, its words and its default.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from ckptgrow.errors import RequestError
from ckptgrow.ranges import misfit

HELP = "help"  # in a field's metadata
JSON_TYPES: Mapping[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}
NAMES: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


def said(text: str, default: Any = MISSING) -> Any:
    """A dataclass's field with its documentation; `default` may be a type, which makes the default."""
    if isinstance(default, type):
        return field(default_factory=default, metadata={HELP: text})
    return field(default=default, metadata={HELP: text})


@dataclass(frozen=True)
class Options:
    """Names with their types, and what each of them does where that is known."""

    types: Mapping[str, Any]
    helps: Mapping[str, str] = field(default_factory=dict[str, str])

    def checked(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The values under their Python names: a hyphen counts as an underscore. Raises RequestError, with a place,
        for others than it takes, and for numbers out of their range.
        """
        found = {str(name).replace("-", "_"): value for name, value in given.items()}
        check_known(found, self.types, where)
        return {name: self._checked(name, value, f"{where}.{name}") for name, value in found.items()}

    def _checked(self, name: str, value: Any, where: str) -> Any:
        taken = checked(value, self.types[name], where)
        check_number(name, taken, where)
        return taken

    def schema(self) -> dict[str, Any]:
        """As an object of JSON schema."""
        properties = {
            name: {**schema_of(hint), **({"description": self.helps[name]} if name in self.helps else {})}
            for name, hint in self.types.items()
        }
        return {"type": "object", "additionalProperties": False, "properties": properties}


def check_number(name: str, value: Any, where: str) -> None:
    """Raises RequestError for a number that the option of that name does not take."""
    expected = misfit(name, value)
    if expected:
        raise RequestError(f"{where}: is {value!r}, expected {expected}")


def check_known(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises RequestError for a name that is not known, with the nearest that is."""
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise RequestError(f"{where}: has no field {name}; {hint}")


def checked(value: Any, hint: Any, where: str) -> Any:
    """The value as its type has it; raises RequestError with the place, what was found and what was expected."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _of_several(value, arguments, where)
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        raise RequestError(f"{where}: is {value!r}, expected {' or '.join(map(str, arguments))}")
    if origin is tuple or origin in (Sequence, list):
        return _sequence(value, arguments, where)
    if origin in (Mapping, dict):
        if isinstance(value, Mapping):
            entries = cast(Mapping[Any, Any], value).items()
            return {str(key): checked(one, arguments[1], f"{where}.{key}") for key, one in entries}
        raise RequestError(f"{where}: is {value!r}, expected fields and values")
    if is_dataclass(hint):
        return made(cast(type, hint), value, where)
    return _simple(value, hint, where)


def made(kind: type, value: Any, where: str) -> Any:
    """A dataclass out of fields and values."""
    if not isinstance(value, Mapping):
        found = "empty" if value is None else repr(value)
        raise RequestError(f"{where}: is {found}, expected fields and values")
    given = cast(Mapping[str, Any], value)
    hints = get_type_hints(kind)
    check_known(given, hints, where)
    lacking = [one.name for one in fields(kind) if _is_required(one) and one.name not in given]
    if lacking:
        raise RequestError(f"{where}: lacks {lacking[0]}, expected it. {help_of(kind, lacking[0])}")
    return kind(**{name: checked(one, hints[name], f"{where}.{name}") for name, one in given.items()})


def help_of(kind: type, name: str) -> str:
    """What a field of a dataclass is for."""
    return next(str(one.metadata.get(HELP, "")) for one in fields(kind) if one.name == name)


def schema_of(hint: Any) -> dict[str, Any]:
    """A type as JSON schema."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one) for one in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple or origin in (Sequence, list):
        inner = schema_of(arguments[0])
        return {"anyOf": [{"type": "array", "items": inner}, inner]}
    if origin in (Mapping, dict):
        return {"type": "object"}
    if is_dataclass(hint):
        return schema_of_class(cast(type, hint))
    return {"type": "null"} if hint is type(None) else {"type": JSON_TYPES[hint]} if hint in JSON_TYPES else {}


def schema_of_class(kind: type) -> dict[str, Any]:
    """A dataclass as an object of JSON schema, every field with its documentation and default."""
    hints = get_type_hints(kind)
    properties: dict[str, Any] = {}
    for one in fields(kind):
        default = {} if one.default in (MISSING, None, ()) else {"default": one.default}
        properties[one.name] = {**schema_of(hints[one.name]), "description": one.metadata[HELP], **default}
    required = [one.name for one in fields(kind) if _is_required(one)]
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _is_required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _of_several(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    others = [one for one in hints if one is not type(None)]
    if len(others) == 1:
        return checked(value, others[0], where)
    for one in others:
        with suppress(RequestError):
            return checked(value, one, where)
    raise RequestError(f"{where}: is {value!r}, expected {' or '.join(map(_named, others))}")


def _sequence(value: Any, arguments: Sequence[Any], where: str) -> tuple[Any, ...]:
    """A list; a value alone is a list of one, and words by commas are several."""
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",") if word.strip()]
    items = list(cast(Sequence[Any], value)) if isinstance(value, list | tuple) else [value]
    if len(arguments) > 1 and arguments[1] is not Ellipsis:
        if len(items) != len(arguments):
            raise RequestError(f"{where}: has {len(items)} values, expected {len(arguments)}")
        return tuple(checked(one, hint, where) for one, hint in zip(items, arguments, strict=True))
    return tuple(checked(one, arguments[0], f"{where}[{place}]") for place, one in enumerate(items))


def _simple(value: Any, hint: Any, where: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and not isinstance(value, bool):
        number = _number(value)
        if number is not None:
            return number
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    raise RequestError(f"{where}: is {value!r}, expected {_named(hint)}")


def _number(value: Any) -> float | None:
    """A number; YAML takes 1e-3 for text."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _named(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    has_fields = is_dataclass(hint) or get_origin(hint) in (Mapping, dict)
    return NAMES.get(hint, "fields and values" if has_fields else "a list")
