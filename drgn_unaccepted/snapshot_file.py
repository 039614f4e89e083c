# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshot files: versioned JSON, whose layout follows the fields of :class:`~drgn_unaccepted.snapshot.Snapshot`.

``schema/snapshot.json`` is its JSON Schema.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from itertools import islice
from typing import Callable, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.codec import COLUMNS, Context, decode, encode, hint, parse_json
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.files import open_input, write_atomically
from drgn_unaccepted.model.header import PRESENT, Header, judge_header
from drgn_unaccepted.model.ranges import chunk_runs
from drgn_unaccepted.snapshot import ALL_PARTS, PAGE_SHIFT, Snapshot, Table

SCHEMA = "drgn-unaccepted-snapshot/1"


def dump(snapshot: Snapshot) -> str:
    """The snapshot as JSON. SnapshotFileError: it could not be read again: too large, or values that no kernel has."""
    try:
        text = json.dumps({"schema": SCHEMA, "snapshot": encode(snapshot, hint(Snapshot))})
        load(text)
    except SnapshotFileError as error:
        raise SnapshotFileError(f"a file with this snapshot could not be read again: {error}") from None
    return text


def write(snapshot: Snapshot, path: str) -> None:
    """Write a snapshot file atomically. OSError: not written. SnapshotFileError: it could not be read again."""
    write_atomically(path, dump(snapshot) + "\n")


def read(path: str, warn: Optional[Callable[[str], None]] = None) -> Snapshot:
    """The snapshot in a file.

    :param warn: is called with a line for each field that this version does not know
    :raises SnapshotFileError: another version, or not a snapshot
    :raises OSError: the file cannot be read
    """
    data = bytearray()
    with open_input(path) as file:
        # read() allocates what it is asked for, however small the file is.
        while len(data) <= limits.SNAPSHOT_FILE_BYTES and (piece := file.read(1 << 20)):
            data += piece
    snapshot = load(data, warn)
    return dataclasses.replace(snapshot, target=dataclasses.replace(snapshot.target, snapshot_path=path))


def load(data: Union[str, bytearray], warn: Optional[Callable[[str], None]] = None) -> Snapshot:
    """The snapshot in JSON; see :func:`read`. A bytearray is emptied."""
    document = parse_json(bytearray(data.encode()) if isinstance(data, str) else data, SCHEMA)
    context = Context()
    context.unknown("file", document.keys() - {"schema", "snapshot"})
    snapshot: Snapshot = decode(document.pop("snapshot", None), hint(Snapshot), "snapshot", context)
    check_consistency(snapshot)
    if warn is not None:
        for warning in context.warnings:
            warn(warning)
    return snapshot


def check_consistency(snapshot: Snapshot) -> None:
    """Refuse a snapshot whose parts contradict each other: all answers rely on what holds between them."""
    try:
        clock = datetime.fromisoformat(snapshot.target.taken_at).tzinfo
    except ValueError:
        clock = None
    if clock is None:
        raise SnapshotFileError("target.taken_at is no time with its zone in ISO 8601")
    _check_table(snapshot.table)
    absent = {part for part in ALL_PARTS if getattr(snapshot, part) is None}
    if snapshot.e820 is not None:
        absent |= {f"e820.{name}" for name, entries in vars(snapshot.e820).items() if entries is None}
    for part in sorted(absent - snapshot.missing.keys()):
        raise SnapshotFileError(f"{part} is null, and missing does not say why")
    _check_lists(snapshot)


def _check_table(table: Table) -> None:
    if table.state != PRESENT and table.reason is None:
        raise SnapshotFileError(f"table is {table.state} without a reason")
    if (table.state == PRESENT) != (table.bitmap is not None):
        raise SnapshotFileError(f"table is {table.state} {'without' if table.bitmap is None else 'with'} a bitmap")
    header = (table.version, table.unit_size, table.phys_base, table.bitmap_bytes)
    if table.address is None or None in header:
        if table.state == PRESENT or header.count(None) < len(header):
            raise SnapshotFileError("table has a part of a header, or no address")
        return
    state, reason = judge_header(Header(*header), table.address)  # type: ignore[arg-type]
    if table.state in (PRESENT, "not-captured") and state != PRESENT:
        raise SnapshotFileError(f"table is {table.state}, and its header is {state}: {reason}")
    nbytes = table.bitmap_bytes if table.bitmap is None else len(table.bitmap)
    if nbytes != table.bitmap_bytes:
        raise SnapshotFileError(f"table has a bitmap of {nbytes} bytes and a header that says {table.bitmap_bytes}")


def _check_lists(snapshot: Snapshot) -> None:
    if snapshot.zones is not None and snapshot.kernel is None:
        raise SnapshotFileError("zones without kernel, which has the size of a chunk")
    chunks = 0
    for zone in snapshot.zones or ():
        listed = zone.listed
        if listed is None or snapshot.kernel is None:
            continue
        chunks += len(listed.pfns)
        if len({len(getattr(listed, name)) for name in COLUMNS}) != 1:
            raise SnapshotFileError(f"the list of zone {zone.name} has columns of different lengths")
        if max(listed.pfns, default=0) >= limits.PHYSICAL_END >> PAGE_SHIFT:
            raise SnapshotFileError(f"a chunk of zone {zone.name} is beyond the last physical address")
        runs = chunk_runs(listed.pfns, snapshot.kernel.chunk_pages)
        if len(listed.pfns) > limits.LISTED_RUNS and next(islice(runs, limits.LISTED_RUNS, None), None):
            raise SnapshotFileError(f"the list of zone {zone.name} has more than {limits.LISTED_RUNS} runs of chunks")
    if chunks > limits.LISTED_CHUNKS:
        raise SnapshotFileError(f"{chunks} listed chunks, more than {limits.LISTED_CHUNKS}")
