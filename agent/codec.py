"""Dataclasses to what JSON can carry and back, each field checked against its declared type. Pure.

How to check a class's fields is worked out once, as a message is read far more often than that.
"""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as they are."""
    cls: type = type(value)
    return {name: getattr(value, name) for name, _, _ in _readers(cls)}


def build(cls: type, body: Any) -> Any:
    """An instance from the fields that `fields_of` gave and JSON carried; unknown ones are ignored.

    Raises TypeError, which names the class, where one is missing or of another type than declared.
    """
    if not isinstance(body, dict):
        raise TypeError(f"{cls.__name__} is not an object: {body!r}")
    known = {}
    try:
        for name, plain, read in _readers(cls):
            if name in body:
                value = body[name]
                known[name] = value if type(value) is plain else read(value)
        return cls(**known)
    except TypeError as error:
        raise TypeError(f"{cls.__name__}: {error}") from error


Reader = Callable[[Any], Any]
"""Checks a value against a field's type and builds nested dataclasses; raises TypeError."""


@functools.cache
def _readers(cls: type) -> list[tuple[str, Any, Reader]]:
    """Each field's name, the type of a value that needs no second look, and how to read any other."""
    hints = get_type_hints(cls)
    plain = (str, int, float, bool)
    return [
        (item.name, hint if hint in plain else None, _reader(hint))
        for item in dataclasses.fields(cls)
        for hint in [hints[item.name]]
    ]


def _reader(hint: Any) -> Reader:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if origin in (Union, types.UnionType):
        inner = _reader(next(argument for argument in arguments if argument is not types.NoneType))
        may_be_none = types.NoneType in arguments
        return lambda value: None if value is None and may_be_none else inner(value)
    if dataclasses.is_dataclass(hint):
        return lambda value: build(hint, value)  # type: ignore[arg-type]
    if origin is list:
        item = _reader(arguments[0])
        return lambda value: [item(element) for element in _checked(list, value)]
    if origin is dict:
        content = _reader(arguments[1])
        return lambda value: {str(name): content(element) for name, element in _checked(dict, value).items()}
    return lambda value: _checked(hint, value)


def _checked(kind: type, value: Any) -> Any:
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise TypeError(f"expected {kind.__name__}, got {value!r}")
