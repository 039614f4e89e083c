# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots as files: JSON, versioned, written whole or not at all.

The layout follows the fields of :class:`~drgn_unaccepted.snapshot.Snapshot`: a dataclass is an object, a named tuple a
list, bytes and columns are compressed and in base64. ``schema/snapshot.json`` is its JSON Schema. A file is read as
untrusted input: what is read holds to the schema, and its parts to each other (:mod:`~drgn_unaccepted.snapshot_sound`).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
import reprlib
import sys
import tempfile
import typing
import zlib
from array import array
from collections import Counter
from collections.abc import Mapping as AbstractMapping
from functools import cache
from pathlib import Path
from typing import Any, Callable, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.files import check_replaceable, open_input
from drgn_unaccepted.schema import violation
from drgn_unaccepted.snapshot import ListedChunks, Snapshot
from drgn_unaccepted.snapshot_sound import contradiction

SCHEMA = "drgn-unaccepted-snapshot/1"

#: ``array.array`` type codes of the columns of :class:`~drgn_unaccepted.snapshot.ListedChunks`, little endian.
_COLUMNS = {"pfns": "Q", "flags": "Q", "refcounts": "i", "page_types": "I"}

_PIECE_BYTES = 1 << 20


class SnapshotFileError(Exception):
    """The file is no snapshot that can be read; the text says why in one line."""


def dump(snapshot: Snapshot) -> str:
    """The snapshot as JSON text.

    :raises SnapshotFileError: it could not be read again: too large, or values that no kernel has
    """
    document = {"schema": SCHEMA, "snapshot": encode(snapshot)}
    broken = violation("snapshot", document) or contradiction(snapshot)
    if broken is not None:
        raise SnapshotFileError(f"what was read is not what a kernel has: {broken}")
    text = json.dumps(document)
    _bounded(text.encode())
    return text


def load(text: str) -> Snapshot:
    """The snapshot out of JSON text.

    :raises SnapshotFileError: another version, or not a snapshot
    """
    return _load(bytearray(text.encode()))


def _load(data: bytearray) -> Snapshot:
    document = parse_json(data)
    check_schema(document, SCHEMA)
    broken = violation("snapshot", document)
    if broken is not None:
        raise SnapshotFileError(broken)
    snapshot = decode(document.pop("snapshot"), Snapshot, "snapshot")
    assert isinstance(snapshot, Snapshot)
    broken = contradiction(snapshot)
    if broken is not None:
        raise SnapshotFileError(broken)
    return snapshot


def parse_json(data: bytearray) -> Any:
    """JSON out of untrusted bytes, which are no more than a reader has memory for.

    :param data: is emptied, so that the text is not in memory twice
    :raises SnapshotFileError: not JSON, or too much of it
    """
    _bounded(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise SnapshotFileError("not JSON: not UTF-8 text") from None
    data.clear()
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SnapshotFileError(f"not JSON: {error}") from None


def check_schema(document: Any, wanted: str) -> None:
    """Refuse a document of another kind or version.

    :raises SnapshotFileError: which one it is, and which one is read
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != wanted:
        raise SnapshotFileError(f"schema is {reprlib.repr(schema)}, and {wanted!r} is what this program reads")


def check_outline(snapshot: Snapshot) -> None:
    """Hold a snapshot that was put together out of untrusted parts against schema and contradictions.

    :raises SnapshotFileError: which one it breaks
    """
    broken = violation("snapshot", {"schema": SCHEMA, "snapshot": encode(snapshot, _no_bytes)})
    broken = contradiction(snapshot) if broken is None else broken
    if broken is not None:
        raise SnapshotFileError(broken)


def _no_bytes(data: bytes) -> str:
    return ""


def _bounded(data: Union[bytes, bytearray]) -> None:
    # A character that is not ASCII makes each of its string take up to four bytes.
    narrow = data.isascii() and b"\\u" not in data
    most = limits.SNAPSHOT_FILE_BYTES if narrow else limits.SNAPSHOT_FILE_BYTES // 4
    if len(data) > most:
        raise SnapshotFileError(f"more than {most} bytes{'' if narrow else ' with characters that are not ASCII'}")
    # No value without one of these, and each value can take 200 bytes. There are none in base64.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > limits.SNAPSHOT_FILE_VALUES:
        raise SnapshotFileError(f"more than {limits.SNAPSHOT_FILE_VALUES} values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{reprlib.repr(twice)} is there twice")
    return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def write(snapshot: Snapshot, path: str) -> None:
    """Write to a temporary file beside ``path`` and rename, so that the file is whole or not there.

    :raises OSError: it cannot be written; nothing is left behind
    :raises SnapshotFileError: it could not be read again
    """
    write_atomically(path, dump(snapshot) + "\n")


def write_atomically(path: str, data: Union[str, bytes], mode: int = 0o600) -> None:
    """``data`` under ``path``, by a rename; an existing file stays until then, and what is no regular file stays.

    :param data: text is written in UTF-8
    :param mode: permissions of the new file; a snapshot is kernel memory and for its owner alone

    :raises OSError: it cannot be written; nothing is left behind
    """
    check_replaceable(path)
    where = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{where.name}.", dir=where.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data if isinstance(data, bytes) else data.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: str) -> Snapshot:
    """The snapshot in a file.

    :raises SnapshotFileError: it is none that can be read
    :raises OSError: the file cannot be read
    """
    data = bytearray()
    with open_input(path) as file:
        # What a read asks for is allocated, whatever the file has.
        while len(data) <= limits.SNAPSHOT_FILE_BYTES and (piece := file.read(_PIECE_BYTES)):
            data += piece
    snapshot = _load(data)
    return dataclasses.replace(snapshot, target=dataclasses.replace(snapshot.target, snapshot_path=path))


def _pack(data: bytes) -> str:
    packed = zlib.compress(data)
    if len(packed) > limits.SNAPSHOT_FILE_BYTES // 2:
        raise SnapshotFileError(f"{len(data)} bytes that take {len(packed)} compressed: too scattered to be written")
    return base64.b64encode(packed).decode("ascii")


def encode(value: Any, pack: Callable[[bytes], str] = _pack) -> Any:
    """``value`` as it stands in a snapshot file, with ``pack`` for what is bytes."""
    if dataclasses.is_dataclass(value):
        return {f.name: encode(getattr(value, f.name), pack) for f in dataclasses.fields(value)}
    if isinstance(value, array):
        little = value
        if sys.byteorder == "big":
            little = array(value.typecode, value)
            little.byteswap()
        return pack(little.tobytes())
    if isinstance(value, bytes):
        return pack(value)
    if isinstance(value, tuple):
        return [encode(item, pack) for item in value]
    if isinstance(value, AbstractMapping):
        return dict(value)
    return value


class Budget:
    """Bytes that may still be unpacked out of one file, or one line of a recording."""

    def __init__(self) -> None:
        self._left = limits.SNAPSHOT_UNPACKED_BYTES

    def unpack(self, value: Any, where: str) -> bytes:
        _expect(value, str, where)
        try:
            inflate = zlib.decompressobj()
            data = inflate.decompress(base64.b64decode(value, validate=True), self._left + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise SnapshotFileError(f"{where}: {error}") from None
        if len(data) > self._left:
            raise SnapshotFileError(f"{where}: more than {limits.SNAPSHOT_UNPACKED_BYTES} bytes when unpacked")
        if not inflate.eof or inflate.unused_data:
            raise SnapshotFileError(f"{where}: damaged")
        self._left -= len(data)
        return data


def decode(value: Any, kind: Any, where: str, budget: Optional[Budget] = None) -> Any:
    """``value`` as the annotation ``kind`` says, or an error that names ``where`` it stands."""
    budget = budget or Budget()
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Union:
        if value is None:
            return None
        return decode(value, arguments[0], where, budget)
    if kind in (int, bool, str):
        # A bool is an int in Python, and no integer in JSON.
        if type(value) is not kind:
            raise SnapshotFileError(f"{where}: {kind.__name__} is wanted")
        return value
    if kind is bytes:
        return budget.unpack(value, where)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(value, kind, where, budget)
    if origin is tuple:
        _expect(value, list, where)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(decode(item, arguments[0], where, budget) for item in value)
        raise TypeError(f"no such annotation is used: {kind}")
    if isinstance(kind, type) and issubclass(kind, tuple):
        hints = _hints(kind)
        _expect(value, list, where)
        if len(value) != len(hints):
            raise SnapshotFileError(f"{where}: {len(hints)} fields are wanted")
        return kind(*(decode(item, hint, f"{where}.{n}", budget) for item, (n, hint) in zip(value, hints.items())))
    if origin is AbstractMapping:
        _expect(value, dict, where)
        return {key: decode(item, str, where, budget) for key, item in value.items()}
    raise TypeError(f"no such annotation is used: {kind}")


def _decode_dataclass(value: Any, kind: Any, where: str, budget: Budget) -> Any:
    _expect(value, dict, where)
    names = {f.name for f in dataclasses.fields(kind)}
    missing, extra = names - value.keys(), value.keys() - names
    if missing or extra:
        name = min(missing or extra)
        raise SnapshotFileError(f"{where}: {'no' if missing else 'unknown'} {reprlib.repr(name)}")
    if kind is ListedChunks:
        return _decode_chunks(value, where, budget)
    hints = _hints(kind)
    return kind(**{name: decode(value[name], hint, f"{where}.{name}", budget) for name, hint in hints.items()})


def _decode_chunks(value: dict[str, Any], where: str, budget: Budget) -> ListedChunks:
    columns = {}
    for name, code in _COLUMNS.items():
        column = array(code)
        data = budget.unpack(value[name], f"{where}.{name}")
        if len(data) % column.itemsize:
            raise SnapshotFileError(f"{where}.{name}: {len(data)} bytes are no whole number of values")
        column.frombytes(data)
        if sys.byteorder == "big":
            column.byteswap()
        columns[name] = column
    if len({len(column) for column in columns.values()}) != 1:
        raise SnapshotFileError(f"{where}: columns of different lengths")
    problems = decode(value["problems"], tuple[str, ...], f"{where}.problems")
    return ListedChunks(**columns, problems=problems)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _expect(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind):
        raise SnapshotFileError(f"{where}: {kind.__name__} is wanted")
