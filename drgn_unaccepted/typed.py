# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verify parsed JSON by the annotations of a TypedDict."""

from __future__ import annotations

import typing
from functools import cache
from typing import Any, Callable


@cache
def checker(kind: Any) -> Callable[[Any], bool]:
    """A function that tells whether a value out of JSON has a type.

    It adds a key that is missing as None where None is allowed, because older versions did not write all keys.
    Unknown keys stay.

    :param kind: a TypedDict, a list or union of such, a Literal of text, or a scalar type
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    scalars = _scalars(kind)
    if scalars:
        return lambda value: type(value) in scalars
    if origin is typing.Literal:
        return lambda value: isinstance(value, str) and value in arguments
    if origin is typing.Union:
        checks = [checker(argument) for argument in arguments]
        return lambda value: any(check(value) for check in checks)
    if origin is list:
        items = _scalars(arguments[0])
        if items:
            return lambda value: isinstance(value, list) and items.issuperset(map(type, value))
        item = checker(arguments[0])
        return lambda value: isinstance(value, list) and all(map(item, value))
    if not hasattr(kind, "__required_keys__"):
        raise TypeError(f"not out of JSON: {kind}")
    keys = {name: checker(hint) for name, hint in typing.get_type_hints(kind).items()}
    nullable = [name for name in keys if name in kind.__required_keys__ and keys[name](None)]
    needed = kind.__required_keys__.difference(nullable)

    def is_object(value: Any) -> bool:
        if not isinstance(value, dict) or not needed <= value.keys():
            return False
        if not all(holds(value[name]) for name, holds in keys.items() if name in value):
            return False
        for name in nullable:
            value.setdefault(name)
        return True

    return is_object


def _scalars(kind: Any) -> frozenset[type]:
    """The classes of a scalar type, or of a union of such; empty for another type. A bool is no int here."""
    if typing.get_origin(kind) is typing.Union:
        parts = [_scalars(part) for part in typing.get_args(kind)]
        return frozenset().union(*parts) if all(parts) else frozenset()
    return frozenset((int, float) if kind is float else (kind,) if kind in (str, int, bool, type(None)) else ())
