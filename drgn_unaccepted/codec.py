# SPDX-License-Identifier: LGPL-2.1-or-later
"""Typed values to and from JSON, by the annotations of their classes.

A dataclass is an object, a tuple a list; bytes and columns of numbers are compressed and in base64. Files are
untrusted: types, bounds and the size of what is unpacked are checked. So that files can evolve, a field with a default
may be absent, and an unknown one is left out with a warning.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import reprlib
import sys
import typing
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.field_types import Bounds, Choices
from drgn_unaccepted.snapshot import ListedChunks, PageRun

#: ``array.array`` type codes of the columns of a list of chunks, little endian.
COLUMNS = {"pfns": "Q", "flags": "Q", "refcounts": "i", "page_types": "I"}


class Context:
    """What is counted over one file, or one line of a recording."""

    def __init__(self, warnings: Optional[dict[str, None]] = None) -> None:
        self._bytes_left = limits.SNAPSHOT_UNPACKED_BYTES
        self.warnings: dict[str, None] = {} if warnings is None else warnings  #: At most :data:`limits.FILE_WARNINGS`.

    def unknown(self, place: str, names: Iterable[str]) -> None:
        for name in sorted(names)[: limits.FILE_WARNINGS]:
            if len(self.warnings) < limits.FILE_WARNINGS:
                self.warnings[f"unknown field {place}.{name[:64]} ignored"] = None

    def unpack(self, text: str, where: str, item_bytes: int = 1) -> bytes:
        try:
            inflate = zlib.decompressobj()
            data = inflate.decompress(base64.b64decode(text, validate=True), self._bytes_left + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise SnapshotFileError(f"{where}: {error}") from None
        if len(data) > self._bytes_left:
            raise SnapshotFileError(f"{where}: more than {limits.SNAPSHOT_UNPACKED_BYTES} bytes when unpacked")
        if not inflate.eof or inflate.unused_data or len(data) % item_bytes:
            raise SnapshotFileError(f"{where}: damaged")
        self._bytes_left -= len(data)
        return data


class Hint(NamedTuple):
    optional: bool
    kind: Any  #: A scalar type, a dataclass, a named tuple, ``tuple``, ``Mapping``, or the type code of a column.
    json: type  #: The type of the value in JSON.
    bounds: Union[Bounds, Choices, None]
    item: Optional[Hint]  #: The elements of a tuple, which are alike.


@cache
def hint(annotation: Any) -> Hint:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Union:
        return hint(arguments[0])._replace(optional=True)
    if origin is typing.Annotated:
        return hint(arguments[0])._replace(bounds=arguments[1])
    kind: type = dict if origin is Mapping or dataclasses.is_dataclass(annotation) else list
    if annotation in (int, bool, str, bytes) or isinstance(annotation, str):
        kind = annotation if annotation in (int, bool) else str
    return Hint(False, origin or annotation, kind, None, hint(arguments[0]) if origin is tuple else None)


@cache
def annotations_of(kind: Any) -> dict[str, Any]:
    """The annotations of a class; those of :data:`COLUMNS` are type codes."""
    # array.array takes no type argument before Python 3.12.
    known = typing.get_type_hints(kind, localns={"array": list}, include_extras=True)
    return {**known, **COLUMNS} if kind is ListedChunks else known


@cache
def hints(kind: Any) -> dict[str, Hint]:
    return {name: hint(annotation) for name, annotation in annotations_of(kind).items()}


def encode(value: Any, expected: Hint) -> Any:
    """``value`` as JSON, unchecked: :func:`decode` may refuse it. SnapshotFileError: bytes that hardly compress."""
    optional, kind, json_type, _, item = expected
    if kind is json_type or (optional and value is None):
        return value
    if json_type is str:
        return _pack(value if kind is bytes else _little_endian(value).tobytes())
    if kind is Mapping:
        return dict(value)
    if json_type is dict:
        return {name: encode(getattr(value, name), each) for name, each in hints(kind).items()}
    if item is not None:
        return [encode(each, item) for each in value]
    return [encode(each, field) for field, each in zip(hints(kind).values(), value)]


def decode(value: Any, expected: Hint, where: str, context: Optional[Context] = None) -> Any:
    """The value that a hint describes, out of JSON.

    :param where: place of ``value``, for the message
    :raises SnapshotFileError: ``value`` does not fit
    """
    optional, kind, json_type, bounds, item = expected
    if optional and value is None:
        return None
    found = type(value)  # narrows nothing, for mypy
    if found is not json_type:  # a bool is an int in Python, but not in JSON
        raise SnapshotFileError(f"{where}: {json_type.__name__} is wanted")
    if bounds is not None:
        _check_bounds(value, bounds, where)
    if kind is json_type:
        return value
    context = context or Context()
    if kind is bytes:
        return context.unpack(value, where)
    if json_type is str:
        return _little_endian(array(kind, context.unpack(value, where, array(kind).itemsize)))
    if kind is Mapping:
        return {key: decode(text, hint(str), f"{where}.{key[:64]}") for key, text in value.items()}
    if json_type is dict:
        return _object(value, kind, where, context)
    if item is not None:
        return tuple([decode(each, item, f"{where}.{n}", context) for n, each in enumerate(value)])
    fields = hints(kind)
    if len(value) != len(fields):
        raise SnapshotFileError(f"{where}: {len(fields)} fields are wanted")
    made = kind(*[decode(each, field, f"{where}.{n}", context) for (n, field), each in zip(fields.items(), value)])
    # Every named tuple of a snapshot is a range.
    start, end = (made.start_pfn, made.end_pfn) if kind is PageRun else (made.start, made.end)
    if end < start:
        raise SnapshotFileError(f"{where}: ends before it starts: {start:#x}-{end:#x}")
    return made


def parse_json(data: bytearray, schema: Optional[str] = None) -> Any:
    """JSON out of untrusted bytes.

    :param data: is emptied, so that the text is not in memory twice
    :raises SnapshotFileError: not JSON, of another schema, or it would take too much memory
    """
    # One character that is not ASCII makes each character of its string take up to four bytes.
    narrow = data.isascii() and b"\\u" not in data
    most = limits.SNAPSHOT_FILE_BYTES if narrow else limits.SNAPSHOT_FILE_BYTES // 4
    if len(data) > most:
        raise SnapshotFileError(f"more than {most} bytes{'' if narrow else ' with characters that are not ASCII'}")
    # Each value follows one of these, and can take 200 bytes. Base64 has none of them.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > limits.SNAPSHOT_FILE_VALUES:
        raise SnapshotFileError(f"more than {limits.SNAPSHOT_FILE_VALUES} values")
    try:
        text = data.decode("utf-8")
        data.clear()
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SnapshotFileError(f"not JSON: {error}") from None
    found = value.get("schema") if isinstance(value, dict) else None
    if schema not in (None, found):
        raise SnapshotFileError(f"schema is {reprlib.repr(found)}, and {schema!r} is what this program reads")
    return value


def _check_bounds(value: Any, bounds: Union[Bounds, Choices], where: str) -> None:
    if isinstance(bounds, Choices):
        if value not in bounds.values:
            raise SnapshotFileError(f"{where}: {reprlib.repr(value)} is none of {', '.join(map(str, bounds.values))}")
        return
    number, what = (value, "") if isinstance(value, int) else (len(value), " items or characters")
    if not bounds.low <= number <= bounds.high:
        raise SnapshotFileError(f"{where}: {reprlib.repr(number)}{what} is not from {bounds.low} to {bounds.high}")


def _object(value: dict[str, Any], kind: Any, where: str, context: Context) -> Any:
    known = hints(kind)
    context.unknown(kind.__name__, value.keys() - known.keys())
    for field in dataclasses.fields(kind):
        if field.name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise SnapshotFileError(f"{where}: no {field.name!r}")
    return kind(**{n: decode(value[n], known[n], f"{where}.{n}", context) for n in known if n in value})


def _little_endian(column: array[int]) -> array[int]:
    """Between the machine's byte order and the file's."""
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column


def _pack(data: bytes) -> str:
    packed = zlib.compress(data)
    if len(packed) > limits.SNAPSHOT_FILE_BYTES // 2:
        raise SnapshotFileError(f"{len(data)} bytes that take {len(packed)} compressed: too scattered to be written")
    return base64.b64encode(packed).decode("ascii")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{reprlib.repr(key)} is there twice")
    return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
