# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locate and read ``struct efi_unaccepted_memory``.

``efi.unaccepted`` holds its physical address. The bytes are read physically first: since Linux 6.6 the table lies in
ACPI memory (e7761d827e99), which no kdump and no /proc/kcore has, and the direct map of a vmcore leads to the same
missing segment. The state says where the bytes cannot be read; zeros are no evidence.
"""

from __future__ import annotations

import dataclasses
from operator import index
from typing import Any, Callable, NamedTuple, Optional, Union

import drgn

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel.probe import U64_MAX
from drgn_unaccepted.model.header import HEADER, decode_header, judge_header
from drgn_unaccepted.model.ranges import Range, merge
from drgn_unaccepted.snapshot import CRASH_KERNEL, PAGE_SIZE, Snapshot, Table
from drgn_unaccepted.targets.errors import DAMAGED, TargetError, Unavailable
from drgn_unaccepted.targets.page_tables import NotMapped, kernel_page_tables

_WHY_NOT_CAPTURED = (
    "Since Linux 6.6 the table is in ACPI memory, which kdump and /proc/kcore omit. Whole-RAM dumps contain it"
)

Reader = Callable[[int, int], bytes]  #: Reads ``size`` bytes of the table at a physical address, or raises Unavailable.


class SavedTable(NamedTuple):
    """The bytes of a table that was saved earlier (``--table``)."""

    path: str
    address: int  #: Physical address that it was read from.
    data: bytes  #: Header and bitmap.
    boot_id: Optional[str] = None  #: Of the boot in which it was saved; None where the file does not say.
    at_crash: bool = False  #: The crash kernel saved it in the crash that made the dump: it is that dump's own.


def saved_table_from_snapshot(path: str, snapshot: Snapshot) -> SavedTable:
    """The table in a snapshot, which knows its boot. TargetError: it has none, or one that is not to be believed."""
    table = snapshot.table
    data = table.to_bytes()
    if data is None or table.address is None:
        raise TargetError(f"{path}: no table in it: {table.state}: {table.reason}")
    if table.is_doubted:
        raise TargetError(f"{path}: its table is not to be believed: {table.reason}")
    # A saved table that was given to a target is of the target's boot only if that was proven.
    is_known = not table.is_saved or table.same_boot
    return SavedTable(path, table.address, data, snapshot.target.boot_id if is_known else None)


def read_table(prog: drgn.Program, readers: list[tuple[str, Reader]], saved: Optional[SavedTable] = None) -> Table:
    """The target's table.

    :param readers: ways to read its bytes, best first, each with its name
    :param saved: bytes to take instead
    :raises TargetError: ``saved`` is no table, of another boot, or another table than ``efi.unaccepted`` names
    """
    try:
        located = locate_table(prog)
    except Unavailable as error:
        located = Table("not-captured", f"not located: {error}")
    if saved is not None:
        return _take_saved(saved, located, boot_id(prog))
    return located if isinstance(located, Table) else _decode(located, readers)


def _take_saved(saved: SavedTable, located: Union[int, Table], boot: Optional[str]) -> Table:
    """The saved table, for a target of ``boot`` whose own table was ``located``."""
    if saved.boot_id is None or boot is None:
        side = saved.path if saved.boot_id is None else "the target"
        said = f"whether it was saved in this boot is not known: {side} does not say"
    elif saved.boot_id != boot:
        raise TargetError(f"{saved.path}: saved in another boot, {saved.boot_id}; this target is of {boot}")
    else:
        said = f"saved in this boot, {boot}"
    if isinstance(located, Table):
        if located.state != "not-captured":
            raise TargetError(f"{saved.path}: this target has no such table: {located.reason}")
        said = f"{said}; nor is it known that its address is that of this target: {located.reason}"
    elif saved.address != located:
        other = f"saved from {saved.address:#x}, efi.unaccepted of this target is {located:#x}"
        raise TargetError(f"{saved.path}: another table: {other}")

    def read(address: int, size: int) -> bytes:
        offset = address - saved.address
        if offset + size > len(saved.data):
            raise Unavailable(f"{saved.path} has {len(saved.data)} bytes, the table {offset + size}")
        return saved.data[offset : offset + size]

    table = _decode(saved.address, [(CRASH_KERNEL if saved.at_crash else "file", read)])
    if table.state != "present":
        raise TargetError(f"{saved.path}: no table in it: {table.reason}")
    if saved.at_crash:
        return dataclasses.replace(table, same_boot=True)
    return dataclasses.replace(table, reason=said, same_boot=saved.boot_id is not None and saved.boot_id == boot)


def boot_id(prog: drgn.Program) -> Optional[str]:
    """``sysctl_bootid``, as /proc/sys/kernel/random/boot_id shows it; None where it cannot be read or nobody did so.

    The kernel sets it when the file is first read (``proc_do_uuid()`` in drivers/char/random.c).
    """
    try:
        data = prog.read(prog.symbol("sysctl_bootid").address, 16)
    except (LookupError, drgn.FaultError):
        return None
    digits = data.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) if any(data) else None


def locate_table(prog: drgn.Program) -> Union[int, Table]:
    """The table's physical address, or a Table that says why there is none. Unavailable: ``efi`` cannot be read."""
    try:
        address = index(prog["efi"].unaccepted.value_())
    except AttributeError:
        feature = _feature(prog)
        if feature is not None:
            raise Unavailable(f"struct efi has no member unaccepted, but the kernel has {feature}") from None
        return Table("absent", "struct efi has no member unaccepted")
    except DAMAGED as error:
        raise Unavailable(f"efi.unaccepted: {one_line(error)}") from None
    if address == U64_MAX:  # EFI_INVALID_TABLE_ADDR
        return Table("absent", "efi.unaccepted is ~0: no table was found at boot, or one of another version than 1")
    if address == 0:
        feature = _feature(prog)
        if feature is not None:
            # Its initialiser is ~0, and no kernel with the feature stores a zero.
            return Table("not-captured", f"efi.unaccepted reads as 0, which a kernel with {feature} never stores")
        return Table("absent", "efi.unaccepted is 0: a kernel built without CONFIG_UNACCEPTED_MEMORY")
    if address >= limits.PHYSICAL_END:
        return Table("invalid", f"efi.unaccepted is {address:#x}: not a physical address", address)
    return address


def _feature(prog: drgn.Program) -> Optional[str]:
    """What shows a kernel with CONFIG_UNACCEPTED_MEMORY; None: nothing. Unavailable: ``struct zone`` cannot be told."""
    try:
        if prog.type("struct zone").has_member("unaccepted_pages"):
            return "zone->unaccepted_pages"
    except DAMAGED as error:
        raise Unavailable(f"struct zone: {one_line(error)}") from None
    return "accept_memory()" if prog.symbols("accept_memory") else None


def read_target(prog: drgn.Program, address: int, size: int) -> bytes:
    try:
        return bytes(prog.read(address, size, physical=True))
    except (drgn.FaultError, OSError) as error:
        raise Unavailable(f"{address:#x}-{address + size:#x} is not in this target ({one_line(error)})") from None


def unmapped_pages(prog: drgn.Program, table: Table) -> Optional[tuple[Range, ...]]:
    """Pages of the table that have no direct-map address, as the short reservation leaves the last one.

    Only bytes that can be read physically tell: elsewhere a read may fail because they are not in the dump. None where
    nothing can be told.
    """
    if table.state != "present" or table.read_through != "physical":
        return None
    assert table.address is not None and table.bitmap_bytes is not None
    tables = kernel_page_tables(prog)
    if tables is None:
        return None
    first, unmapped = table.address // PAGE_SIZE * PAGE_SIZE, []
    try:
        base = index(prog["page_offset_base"].value_())
        for page in range(first, table.address + HEADER.size + table.bitmap_bytes, PAGE_SIZE):
            try:
                tables.translate(base + page & U64_MAX)
            except NotMapped:
                unmapped.append(Range(page, page + PAGE_SIZE))
    except DAMAGED:
        return None
    return tuple(merge(unmapped))


def _decode(address: int, readers: list[tuple[str, Reader]]) -> Table:
    lacking = []
    fields: dict[str, Any] = {"address": address}
    for name, reader in readers:
        try:
            header = decode_header(reader(address, HEADER.size))
            state, reason = judge_header(header, address)
            if state == "not-captured":
                raise Unavailable(reason)
        except Unavailable as error:
            lacking.append(f"{name}: {error}")
            continue
        fields = {"address": address, "read_through": name, **header._asdict()}
        if state != "present":
            return Table(state, reason, **fields)
        try:
            return Table(state, bitmap=reader(address + HEADER.size, header.bitmap_bytes), **fields)
        except Unavailable as error:
            lacking.append(f"header read, bitmap not: {name}: {error}")
    return Table("not-captured", f"{'; '.join(lacking)}. {_WHY_NOT_CAPTURED}", **fields)
