# SPDX-License-Identifier: LGPL-2.1-or-later
"""Typed values to and from JSON, by the annotations of their classes.

A dataclass is an object, a named tuple or a tuple a list, bytes and columns of numbers are compressed and in base64.
Files are untrusted: :func:`decode` checks types, bounds (:mod:`~drgn_unaccepted.bounds`) and the size of what it
unpacks. So that files can evolve, a field with a default may be absent, and an unknown one is left out with a warning.
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
from collections.abc import Mapping
from functools import cache
from typing import Any, Callable, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.bounds import Bounds, Choices
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.snapshot import ListedChunks

#: ``array.array`` type codes of the columns of :class:`~drgn_unaccepted.snapshot.ListedChunks`, little endian.
COLUMNS = {"pfns": "Q", "flags": "Q", "refcounts": "i", "page_types": "I"}


class Context:
    """What is counted over one file, or one line of a recording."""

    def __init__(self) -> None:
        self._bytes_left = limits.SNAPSHOT_UNPACKED_BYTES
        #: Each once, at most :data:`limits.FILE_WARNINGS`.
        self.warnings: dict[str, None] = {}

    def unknown(self, place: str, names: typing.Iterable[str]) -> None:
        """Note fields that this version does not know."""
        for name in sorted(names)[: limits.FILE_WARNINGS]:
            if len(self.warnings) < limits.FILE_WARNINGS:
                self.warnings[f"unknown field {place}.{name[:64]} ignored"] = None

    def unpack(self, value: Any) -> bytes:
        """Bytes out of their text."""
        if type(value) is not str:
            raise _Wrong("str is wanted")
        try:
            inflate = zlib.decompressobj()
            data = inflate.decompress(base64.b64decode(value, validate=True), self._bytes_left + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise _Wrong(str(error)) from None
        if len(data) > self._bytes_left:
            raise _Wrong(f"more than {limits.SNAPSHOT_UNPACKED_BYTES} bytes when unpacked")
        if not inflate.eof or inflate.unused_data:
            raise _Wrong("damaged")
        self._bytes_left -= len(data)
        return data


def encode(value: Any, pack: Optional[Callable[[bytes], str]] = None) -> Any:
    """``value`` as JSON, with ``pack`` for bytes.

    :raises SnapshotFileError: bytes that hardly compress, too many for a file
    """
    pack = pack or _pack
    if dataclasses.is_dataclass(value):
        return {f.name: encode(getattr(value, f.name), pack) for f in dataclasses.fields(value)}
    if isinstance(value, array):
        return pack(_little_endian(value).tobytes())
    if isinstance(value, bytes):
        return pack(value)
    if isinstance(value, tuple):
        return [encode(item, pack) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def decode(value: Any, annotation: Any, where: str, context: Optional[Context] = None) -> Any:
    """The value that an annotation describes, out of JSON.

    :param where: place of ``value``, for the message
    :raises SnapshotFileError: ``value`` does not fit
    """
    try:
        return _reader(annotation)(value, context or Context())
    except _Wrong as error:
        raise SnapshotFileError(f"{where}{error.place}: {error}") from None


def parse_json(data: bytearray) -> Any:
    """JSON out of untrusted bytes.

    :param data: is emptied, so that the text is not in memory twice
    :raises SnapshotFileError: not JSON, or too much of it
    """
    check_size(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise SnapshotFileError("not JSON: not UTF-8 text") from None
    data.clear()
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SnapshotFileError(f"not JSON: {error}") from None


def check_size(data: Union[bytes, bytearray]) -> None:
    """Refuse JSON that takes too much memory when parsed.

    :raises SnapshotFileError: the limit that it exceeds
    """
    # One character that is not ASCII makes each character of its string take up to four bytes.
    narrow = data.isascii() and b"\\u" not in data
    most = limits.SNAPSHOT_FILE_BYTES if narrow else limits.SNAPSHOT_FILE_BYTES // 4
    if len(data) > most:
        raise SnapshotFileError(f"more than {most} bytes{'' if narrow else ' with characters that are not ASCII'}")
    # Each value follows one of these, and can take 200 bytes. Base64 has none of them.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > limits.SNAPSHOT_FILE_VALUES:
        raise SnapshotFileError(f"more than {limits.SNAPSHOT_FILE_VALUES} values")


def check_schema(document: Any, wanted: str) -> None:
    """Refuse a document of another kind or version.

    :raises SnapshotFileError: which one it is, and which one is read
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != wanted:
        raise SnapshotFileError(f"schema is {reprlib.repr(schema)}, and {wanted!r} is what this program reads")


@cache
def hints(kind: Any) -> dict[str, Any]:
    """The annotations of a class, with their bounds."""
    # array.array takes no type argument before Python 3.12; COLUMNS describes the arrays.
    return typing.get_type_hints(kind, localns={"array": list}, include_extras=True)


def plain(annotation: Any) -> Any:
    """An annotation without its bounds, and without None."""
    while typing.get_origin(annotation) in (Union, typing.Annotated):
        annotation = typing.get_args(annotation)[0]
    return annotation


class _Wrong(Exception):
    """A value that does not fit; whoever reads what is around it adds to the place."""

    place = ""


_Reader = Callable[[Any, Context], Any]


@cache
def _reader(annotation: Any) -> _Reader:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Union:
        inner = _reader(arguments[0])
        return lambda value, context: None if value is None else inner(value, context)
    if origin is typing.Annotated:
        return _bounded_reader(arguments[0], arguments[1])
    if annotation in (int, bool, str):
        return _scalar_reader(annotation)
    if annotation is bytes:
        return lambda value, context: context.unpack(value)
    if dataclasses.is_dataclass(annotation):
        return _object_reader(annotation)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return _list_reader(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, tuple):
        return _named_tuple_reader(annotation)
    if origin is Mapping and arguments == (str, str):
        return _read_texts
    raise TypeError(f"no such annotation is used: {annotation}")


def _bounded_reader(kind: Any, bounds: Union[Bounds, Choices]) -> _Reader:
    inner = _reader(kind)

    if isinstance(bounds, Choices):
        choices = bounds.values

        def one_of(value: Any, context: Context) -> Any:
            if inner(value, context) not in choices:
                raise _Wrong(f"{reprlib.repr(value)} is none of {', '.join(map(str, choices))}")
            return value

        return one_of
    low, high = bounds

    def number(value: Any, context: Context) -> Any:
        if type(value) is not int:
            raise _Wrong("int is wanted")
        if not low <= value <= high:
            raise _Wrong(f"{reprlib.repr(value)} is not from {low} to {high}")
        return value

    def sized(value: Any, context: Context) -> Any:
        if isinstance(value, (str, list)) and not low <= len(value) <= high:
            raise _Wrong(f"{len(value)} items or characters, at most {high} are wanted")
        return inner(value, context)

    return number if kind is int else sized


def _scalar_reader(kind: type) -> _Reader:
    def read(value: Any, context: Context) -> Any:
        # A bool is an int in Python, but not in JSON.
        if type(value) is not kind:
            raise _Wrong(f"{kind.__name__} is wanted")
        return value

    return read


def _list_reader(kind: Any) -> _Reader:
    inner = _reader(kind)

    def read(value: Any, context: Context) -> tuple[Any, ...]:
        _expect(value, list)
        made: list[Any] = []
        try:
            for item in value:
                made.append(inner(item, context))
        except _Wrong as error:
            error.place = f".{len(made)}{error.place}"
            raise
        return tuple(made)

    return read


def _named_tuple_reader(kind: Any) -> _Reader:
    names, readers = list(hints(kind)), [_reader(hint) for hint in hints(kind).values()]

    def read(value: Any, context: Context) -> Any:
        _expect(value, list)
        if len(value) != len(readers):
            raise _Wrong(f"{len(readers)} fields are wanted")
        made: list[Any] = []
        try:
            for item, reader in zip(value, readers):
                made.append(reader(item, context))
        except _Wrong as error:
            error.place = f".{names[len(made)]}{error.place}"
            raise
        return kind(*made)

    return read


def _object_reader(kind: Any) -> _Reader:
    columns = COLUMNS if kind is ListedChunks else {}
    readers = {
        name: _column_reader(columns[name]) if name in columns else _reader(hint) for name, hint in hints(kind).items()
    }
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def read(value: Any, context: Context) -> Any:
        _expect(value, dict)
        if required - value.keys():
            raise _Wrong(f"no {min(required - value.keys())!r}")
        context.unknown(kind.__name__, value.keys() - readers.keys())
        made = {}
        for name, reader in readers.items():
            if name not in value:
                continue
            try:
                made[name] = reader(value[name], context)
            except _Wrong as error:
                error.place = f".{name}{error.place}"
                raise
        return kind(**made)

    return read


def _column_reader(code: str) -> _Reader:
    def read(value: Any, context: Context) -> array[int]:
        column = array(code)
        data = context.unpack(value)
        if len(data) % column.itemsize:
            raise _Wrong(f"{len(data)} bytes are no whole number of values")
        column.frombytes(data)
        return _little_endian(column)

    return read


def _little_endian(column: array[int]) -> array[int]:
    """Between the machine's byte order and the file's."""
    if sys.byteorder == "little":
        return column
    swapped = array(column.typecode, column)
    swapped.byteswap()
    return swapped


def _read_texts(value: Any, context: Context) -> dict[str, str]:
    _expect(value, dict)
    for key, item in value.items():
        if type(item) is not str:
            error = _Wrong("str is wanted")
            error.place = f".{key[:64]}"
            raise error
    return dict(value)


def _expect(value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise _Wrong(f"{kind.__name__} is wanted")


def _pack(data: bytes) -> str:
    packed = zlib.compress(data)
    if len(packed) > limits.SNAPSHOT_FILE_BYTES // 2:
        raise SnapshotFileError(f"{len(data)} bytes that take {len(packed)} compressed: too scattered to be written")
    return base64.b64encode(packed).decode("ascii")


#: No bytes at all, packed.
NO_BYTES = _pack(b"")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{reprlib.repr(twice)} is there twice")
    return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
