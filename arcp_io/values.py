"""Conversion of Python values to JSON and back, for inputs, events and results.

JSON values go to the core as they are. Other values are converted here: dataclasses, msgspec Structs, attrs
classes and pydantic models become objects under the names that their library encodes; tuples, sets, deques
and named tuples become arrays, the items of a set in the order of their JSON text; Enums become their values;
datetimes, dates, times, timedeltas, UUIDs, Decimals and paths become text; bytes become base64. Keys of
objects become text likewise.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from arcp_proto import LocalProtocolError, wire
from arcp_proto.wire import MAX_DEPTH, Body

T = TypeVar("T")

_TEXTS: Final = (datetime, date, time, timedelta, UUID, Decimal, bytes, bytearray, memoryview)
"""Types that msgspec writes as a string."""


def as_json(name: str, value: object) -> Any:
    """Return a value that the core takes: the value itself if it is JSON, otherwise a converted copy.

    Raises LocalProtocolError for a value that JSON cannot represent, and names the part, such as
    `result.rows[3].when`.
    """
    try:
        wire.encode_value(value)
    except LocalProtocolError:
        return converted(name, value)
    return value


def body_as_json(kind: str, body: Body | Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of an event as JSON; raises LocalProtocolError, which names the field.

    The Decimal of a metric is kept: the core writes it digit by digit.
    """
    fields = dict(body) if isinstance(body, Mapping) else msgspec.structs.asdict(body)
    return {
        name: value if isinstance(value, Decimal) and name == "value" else converted(f"{kind}.{name}", value)
        for name, value in fields.items()
        if value is not msgspec.UNSET
    }


def converted(name: str, value: object) -> Any:
    """Return a copy of a value that holds nothing but JSON; raises the errors of `as_json`."""
    return _Conversion(name).of(value)


class _Conversion:
    """The conversion of one value to JSON, with its current place in the value."""

    def __init__(self, name: str) -> None:
        self._path = [name]

    def of(self, value: object) -> Any:
        """Return the JSON of a value, which may hold others."""
        match value:
            case None | bool():
                return value
            case Enum():
                return self.of(value.value)
            case str():
                return self._text(value)
            case int():
                return int(value)
            case float():
                if not math.isfinite(value):
                    raise self._fault(f"{value} is not finite, and JSON cannot represent it")
                return float(value)
            case _ if isinstance(value, _TEXTS):
                return self._as_msgspec_does(value)
            case os.PathLike():
                return self._text(os.fsdecode(value))
        if len(self._path) > MAX_DEPTH:
            raise self._fault("the value is nested too deeply, or contains itself")
        return self._container(value)

    def _container(self, value: object) -> Any:
        match value:
            case Mapping():
                return self._fields((self._key(key), item) for key, item in value.items())
            case list() | tuple() | deque():
                return self._items(value)
            case AbstractSet():
                return sorted(self._items(value), key=wire.encode_checked)
            case msgspec.Struct():
                return self._struct(value)
        if isinstance(value, type):
            raise self._fault(f"the class {value.__name__} is not a value of JSON")
        if dataclasses.is_dataclass(value):
            return self._attributes(value, [field.name for field in dataclasses.fields(value)])
        if (names := _names_of_attrs(value)) is not None:
            return self._attributes(value, names)
        if is_model(type(value)):
            return self._model(value)
        raise self._fault(f"a value of type {type(value).__name__} is not a value of JSON")

    def _attributes(self, value: object, names: Iterable[str]) -> dict[str, Any]:
        return self._fields((name, getattr(value, name)) for name in names if hasattr(value, name))

    def _struct(self, value: msgspec.Struct) -> Any:
        """Return a Struct as msgspec encodes it: its names, its tag, without fields that are unset."""
        cls, config = type(value), value.__struct_config__
        names = zip(cls.__struct_encode_fields__, cls.__struct_fields__, strict=True)
        items = [(encoded, getattr(value, name)) for encoded, name in names]
        if config.array_like:
            tag = [] if config.tag is None else [config.tag]
            return [*tag, *self._items([item for _, item in items])]
        if config.omit_defaults:
            defaults = _defaults_of(cls)
            items = [(name, item) for name, item in items if not _is_default(item, defaults.get(name, _NONE))]
        tagged = {} if config.tag is None else {str(config.tag_field): config.tag}
        return tagged | self._fields(item for item in items if item[1] is not msgspec.UNSET)

    def _model(self, value: Any) -> Any:
        try:
            dumped = value.model_dump(mode="json", by_alias=True)
        except Exception as error:  # The model's serializer failed, or pydantic refuses the value.
            raise self._fault(
                f"the model {type(value).__name__} cannot be written as JSON: {error}"
            ) from error
        return self.of(dumped)

    def _fields(self, fields: Iterable[tuple[str, object]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, item in fields:
            if name in found:
                raise self._fault(f"two keys of an object have the same text {name!r}")
            self._path.append(f".{name}" if name.isidentifier() else f"[{name!r}]")
            found[name] = self.of(item)
            self._path.pop()
        return found

    def _items(self, items: Iterable[object]) -> list[Any]:
        found: list[Any] = []
        for number, item in enumerate(items):
            self._path.append(f"[{number}]")
            found.append(self.of(item))
            self._path.pop()
        return found

    def _key(self, key: object) -> str:
        if isinstance(key, bool) or key is None:
            raise self._fault(f"a key of an object is {key!r}, not a string")
        text = self.of(key)
        if isinstance(text, int | float):
            return str(text)
        if not isinstance(text, str):
            raise self._fault(f"a key of an object is a {type(key).__name__}, not a string")
        return text

    def _text(self, value: str) -> str:
        text: str = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self._fault("a string holds a lone surrogate, which is not text") from None
        return text

    def _as_msgspec_does(self, value: object) -> Any:
        try:
            return msgspec.to_builtins(value)
        except (TypeError, ValueError) as error:
            raise self._fault(str(error)) from None

    def _fault(self, why: str) -> LocalProtocolError:
        path = self._path if len(self._path) <= _PATH else [*self._path[:_PATH], "…"]
        return LocalProtocolError(f"{''.join(path)}: {why}")


_NONE: Final = object()
_PATH: Final = 20
"""Parts of a path that an error names."""


def _defaults_of(cls: type[msgspec.Struct]) -> dict[str, object]:
    """Return the defaults of a Struct's fields, under their encoded names."""
    return {
        field.encode_name: field.default if field.default is not msgspec.NODEFAULT else field.default_factory
        for field in msgspec.structs.fields(cls)
    }


def _is_default(value: object, default: object) -> bool:
    """Return whether `omit_defaults` leaves a value out: the default, or a new empty container."""
    if default in (list, dict, set):
        return type(value) is default and not value
    return value is default or (type(value) is type(default) and value == default)


def _names_of_attrs(value: object) -> list[str] | None:
    """Return the names of the fields of an attrs class, None for any other."""
    attributes = getattr(type(value), "__attrs_attrs__", None)
    return None if attributes is None else [attribute.name for attribute in attributes]


def is_model(cls: object) -> bool:
    """Return whether this is a class of pydantic models; imports nothing."""
    pydantic = sys.modules.get("pydantic")
    base = getattr(pydantic, "BaseModel", None)
    return base is not None and isinstance(cls, type) and issubclass(cls, base)


def is_shape(cls: object) -> bool:
    """Return whether this is a class with fields: a Struct, a dataclass, an attrs class or a model."""
    if not isinstance(cls, type):
        return False
    fields = dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__")
    return fields or issubclass(cls, msgspec.Struct) or is_model(cls)


def read_as(name: str, value: Any, kind: type[T]) -> T:
    """Return a JSON value as a value of a type: of JSON, of msgspec, or a pydantic model.

    Raises ValueError, which names the part that does not fit, such as `result.rows[3].when`.
    """
    try:
        return msgspec.convert(value, kind, str_keys=True, dec_hook=_read_other)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(name, str(error))) from None


def _read_other(kind: type, value: Any) -> Any:
    """Read a type that msgspec does not know; raises ValueError or TypeError, which msgspec converts."""
    if is_model(kind):
        return _read_model(kind, value)
    if issubclass(kind, PurePath) and isinstance(value, str):
        return kind(value)
    raise TypeError(f"results and inputs cannot be read as {kind.__name__}")


def _read_model(kind: Any, value: Any) -> Any:
    try:
        return kind.model_validate(value)
    except ValueError as error:
        found: list[Any] = getattr(error, "errors", list)()
        if not found:
            raise
        first = found[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise ValueError(f"{path}{_INSIDE}{first['msg']}") from None


_INSIDE: Final = "\0"
"""The separator between the path inside a model and the error."""


def _in_words(name: str, message: str) -> str:
    """Return the message of a ValidationError of msgspec with the path in front."""
    what, _, path = message.partition(" - at `$")
    inside, _, what = what.rpartition(_INSIDE)
    what = what.replace("`", "")
    return f"{name}{path.rstrip('`')}{inside}: {what[:1].lower()}{what[1:]}"
