# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table at a crash, which the crash kernel saves beside the dump.

The crash kernel finds the same table at the same address, in ACPI memory, which it may read and /proc/vmcore omits.
It accepts memory only of its own, which the crashed kernel reserved, and so accepted, at boot (``accept_memory()`` in
memblock_alloc_range_nid()). So the bits are those of the crash.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Optional

from drgn_unaccepted.errors import SnapshotFileError, one_line
from drgn_unaccepted.files import TABLE, read_trusted
from drgn_unaccepted.kernel.boot import read_e820
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.table import SavedTable, saved_table_from_snapshot
from drgn_unaccepted.limits import SNAPSHOT_FILE_BYTES
from drgn_unaccepted.model.e820 import RAM
from drgn_unaccepted.model.ranges import Range, merge
from drgn_unaccepted.snapshot import CRASH_KERNEL, Snapshot, Wanted
from drgn_unaccepted.snapshot_file import load
from drgn_unaccepted.targets.errors import UNREADABLE, TargetError
from drgn_unaccepted.targets.opened import Opened

DUMP = "/proc/vmcore"  #: The dump that the crash kernel offers.
_NOTHING = Wanted(frozenset())


def capture_at_crash(running: Opened, crashed: Opened) -> Snapshot:
    """The crashed kernel with its table, which the running kernel, its crash kernel, reads. TargetError: it cannot."""
    snapshot, table = capture(crashed, _NOTHING), capture(running, _NOTHING).table
    for what, known in (("boot ID", snapshot.target.boot_id), ("time of the crash", snapshot.target.crashed_at)):
        if known is None:
            raise TargetError(f"{crashed.name} does not say the {what}, by which a dump knows its table")
    if table.bitmap is None or table.is_doubted:
        raise TargetError(f"table {table.state}: {table.reason}")
    if table.address != snapshot.table.address:
        raise TargetError(f"the crashed kernel's table is not that at {table.address:#x}: {snapshot.table.reason}")
    return dataclasses.replace(snapshot, table=dataclasses.replace(table, read_through=CRASH_KERNEL))


def own_memory(running: Opened) -> list[Range]:
    """The memory of the running kernel, all of it; empty where it cannot be told."""
    try:
        tables, _ = read_e820(running.prog)
    except UNREADABLE:
        return []
    return merge((entry.start, entry.end) for entry in tables.current or () if entry.type == RAM)


def table_beside(opened: Opened, warn: Callable[[str], None]) -> Optional[SavedTable]:
    """The table that lies beside a dump without one; None where there is none, or where it is not to be believed."""
    try:
        return _table_beside(opened)
    except TargetError as error:
        warn(one_line(error))
        return None


def _table_beside(opened: Opened) -> Optional[SavedTable]:
    if opened.kind != "vmcore" or opened.path is None:
        return None
    path = f"{opened.path}{TABLE}"
    try:
        saved = load(read_trusted(path, SNAPSHOT_FILE_BYTES, root_too=True).decode())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, SnapshotFileError) as error:
        raise TargetError(f"{one_line(error, path)}; it is not used") from None
    here = capture(opened, _NOTHING)
    if here.table.state != "not-captured":
        return None
    for what, there, this in (
        ("boot", saved.target.boot_id, here.target.boot_id),
        ("crash", saved.target.crashed_at, here.target.crashed_at),
        ("table", saved.table.address, here.table.address),
    ):
        if there is None or there != this:
            names = [hex(one) if isinstance(one, int) else one for one in (there, this)]
            raise TargetError(f"{path}: of another {what}, {names[0]}, than this dump, {names[1]}; it is not used")
    table = saved_table_from_snapshot(path, saved)
    return table._replace(at_crash=saved.table.read_through == CRASH_KERNEL)
