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
from typing import Any, Callable, NamedTuple, Optional, Union

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

    def unpack(self, value: Any, where: str) -> bytes:
        """Bytes out of their text.

        :raises SnapshotFileError: damaged, or too many
        """
        _expect(value, str, where)
        try:
            inflate = zlib.decompressobj()
            data = inflate.decompress(base64.b64decode(value, validate=True), self._bytes_left + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise SnapshotFileError(f"{where}: {error}") from None
        if len(data) > self._bytes_left:
            raise SnapshotFileError(f"{where}: more than {limits.SNAPSHOT_UNPACKED_BYTES} bytes when unpacked")
        if not inflate.eof or inflate.unused_data:
            raise SnapshotFileError(f"{where}: damaged")
        self._bytes_left -= len(data)
        return data


def encode(value: Any, pack: Optional[Callable[[bytes], str]] = None) -> Any:
    """``value`` as JSON, with ``pack`` for bytes.

    :raises SnapshotFileError: bytes that hardly compress, too many for a file
    """
    pack = pack or _pack
    if value is None or type(value) in (int, str, bool):
        return value
    if dataclasses.is_dataclass(value):
        return {f.name: encode(getattr(value, f.name), pack) for f in dataclasses.fields(value)}
    if isinstance(value, array):
        return pack(_little_endian(value).tobytes())
    if isinstance(value, bytes):
        return pack(value)
    if isinstance(value, tuple):
        return [encode(item, pack) for item in value]
    assert isinstance(value, Mapping)
    return dict(value)


def decode(value: Any, annotation: Any, where: str, context: Optional[Context] = None) -> Any:
    """The value that an annotation describes, out of JSON.

    :param where: place of ``value``, for the message
    :raises SnapshotFileError: ``value`` does not fit
    """
    optional, kind, bounds, item = annotation if isinstance(annotation, Hint) else hint(annotation)
    if optional and value is None:
        return None
    if bounds is not None:
        _check_bounds(value, bounds, where)
    if kind in (int, bool, str):
        # A bool is an int in Python, but not in JSON.
        if type(value) is not kind:
            raise SnapshotFileError(f"{where}: {kind.__name__} is wanted")
        return value
    context = context or Context()
    if kind is bytes:
        return context.unpack(value, where)
    if isinstance(kind, str):
        return _decode_column(context.unpack(value, where), kind, where)
    if dataclasses.is_dataclass(kind):
        return _decode_object(value, kind, where, context)
    if kind is Mapping:
        _expect(value, dict, where)
        return {key: decode(text, str, f"{where}.{key[:64]}") for key, text in value.items()}
    _expect(value, list, where)
    if kind is tuple:
        return tuple([decode(each, item, f"{where}.{n}", context) for n, each in enumerate(value)])
    fields = hints(kind)
    if len(value) != len(fields):
        raise SnapshotFileError(f"{where}: {len(fields)} fields are wanted")
    return kind(*[decode(each, fields[n], f"{where}.{n}", context) for n, each in zip(fields, value)])


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


class Hint(NamedTuple):
    """An annotation, taken apart."""

    optional: bool
    #: A scalar type, a dataclass, a named tuple, ``tuple``, ``Mapping``, or the type code of a column.
    kind: Any
    bounds: Union[Bounds, Choices, None]
    #: Of a tuple: its elements, which are alike.
    item: Optional[Hint]


@cache
def hint(annotation: Any) -> Hint:
    """An annotation of a field of a snapshot."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Union:
        return hint(arguments[0])._replace(optional=True)
    if origin is typing.Annotated:
        return hint(arguments[0])._replace(bounds=arguments[1])
    return Hint(False, origin or annotation, None, hint(arguments[0]) if origin is tuple else None)


@cache
def annotations_of(kind: Any) -> dict[str, Any]:
    """The annotations of a class, with their bounds; those of :data:`COLUMNS` are type codes."""
    # array.array takes no type argument before Python 3.12.
    known = typing.get_type_hints(kind, localns={"array": list}, include_extras=True)
    return {**known, **COLUMNS} if kind is ListedChunks else known


@cache
def hints(kind: Any) -> dict[str, Hint]:
    """The hint of each field of a class."""
    return {name: hint(annotation) for name, annotation in annotations_of(kind).items()}


def _check_bounds(value: Any, bounds: Union[Bounds, Choices], where: str) -> None:
    """Only what has the right type is refused here."""
    if isinstance(bounds, Choices):
        if value not in bounds.values:
            raise SnapshotFileError(f"{where}: {reprlib.repr(value)} is none of {', '.join(map(str, bounds.values))}")
    elif type(value) is int:
        if not bounds.low <= value <= bounds.high:
            raise SnapshotFileError(f"{where}: {reprlib.repr(value)} is not from {bounds.low} to {bounds.high}")
    elif isinstance(value, (str, list)) and not bounds.low <= len(value) <= bounds.high:
        raise SnapshotFileError(f"{where}: {len(value)} items or characters, at most {bounds.high} are wanted")


def _decode_object(value: Any, kind: Any, where: str, context: Context) -> Any:
    _expect(value, dict, where)
    known = hints(kind)
    for field in dataclasses.fields(kind):
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and field.name not in value:
            raise SnapshotFileError(f"{where}: no {field.name!r}")
    context.unknown(kind.__name__, value.keys() - known.keys())
    return kind(**{n: decode(value[n], known[n], f"{where}.{n}", context) for n in known if n in value})


def _decode_column(data: bytes, code: str, where: str) -> array[int]:
    column = array(code)
    if len(data) % column.itemsize:
        raise SnapshotFileError(f"{where}: {len(data)} bytes are no whole number of values")
    column.frombytes(data)
    return _little_endian(column)


def _little_endian(column: array[int]) -> array[int]:
    """Between the machine's byte order and the file's."""
    if sys.byteorder == "little":
        return column
    swapped = array(column.typecode, column)
    swapped.byteswap()
    return swapped


def _expect(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind):
        raise SnapshotFileError(f"{where}: {kind.__name__} is wanted")


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
