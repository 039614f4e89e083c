# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's e820 tables, each read for itself: one that is not captured takes no other with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from drgn import FaultError, Program, offsetof, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.boot_params import (
    SETUP_E820_EXT,
    read_boot_params,
    read_physical,
    read_setup_data,
)
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.model.e820 import E820Entry, decode_e820_entries, decode_e820_ext
from drgn_unaccepted.snapshot import E820Tables

# struct e820_entry and struct boot_e820_entry, packed: u64 addr, u64 size, u32 type.
_ENTRY_BYTES = 20


def read_e820(prog: Program) -> tuple[E820Tables, dict[str, str]]:
    """Return ``e820_table``, ``e820_table_kexec``, ``e820_table_firmware`` and the table of ``boot_params``.

    The first three are copies in slab memory since ``e820__reallocate_tables()``, so a filtered dump may lack
    them. ``boot_params.e820_table`` lies in .bss; its SETUP_E820_EXT extension, if it needs one, elsewhere.

    :return: the tables, ``None`` for one that cannot be read, and the reasons by ``e820.current``,
        ``e820.kexec``, ``e820.firmware`` and ``e820.boot_params``
    :raises Unavailable: none of them can be read
    """
    missing: dict[str, str] = {}

    def attempt(key: str, read: Callable[[], tuple[E820Entry, ...]]) -> Optional[tuple[E820Entry, ...]]:
        try:
            return read()
        except KeyError as error:
            # drgn.ObjectNotFoundError; str() of a KeyError is the repr of its argument.
            missing[key] = str(error.args[0]) if error.args else "not found"
        except (Unavailable, LookupError, AttributeError, ValueError, FaultError) as error:
            missing[key] = str(error)
        return None

    tables = E820Tables(
        current=attempt("e820.current", lambda: _read_table(prog, "e820_table")),
        kexec=attempt("e820.kexec", lambda: _read_table(prog, "e820_table_kexec")),
        firmware=attempt("e820.firmware", lambda: _read_table(prog, "e820_table_firmware")),
        boot_params=attempt("e820.boot_params", lambda: _read_boot_params_table(prog)),
    )
    if len(missing) == 4:
        raise Unavailable("; ".join(dict.fromkeys(missing.values())))
    return tables, missing


def _read_table(prog: Program, name: str) -> tuple[E820Entry, ...]:
    """``struct e820_table *name``: ``u32 nr_entries``, then the entries; only those in use are allocated."""
    pointer = prog[name].read_()
    address = pointer.value_()
    if not address:
        raise Unavailable(f"{name} is NULL")
    table_type = pointer.type_.type
    entries_at = offsetof(table_type, "entries")
    array = table_type.member("entries").type
    if array.length is None or sizeof(array) != array.length * _ENTRY_BYTES:
        raise Unavailable(f"{name}: its entries are not of {_ENTRY_BYTES} bytes")
    what = f"{name} {address:#x}"
    try:
        number = pointer.nr_entries.value_()
        if not number:
            raise Unavailable(f"{what}: reads as zeros, not captured")
        if number > min(array.length, limits.E820_ENTRIES):
            raise Unavailable(f"{what}: {number} entries in an array of {array.length}")
        data = prog.read(address + entries_at, number * _ENTRY_BYTES)
    except (FaultError, OSError) as error:
        raise Unavailable(f"{what}: not in this target") from error
    return _whole(decode_e820_entries(data, number), what)


def _read_boot_params_table(prog: Program) -> tuple[E820Entry, ...]:
    """``boot_params.e820_table``, and what had no room there (``struct setup_data`` SETUP_E820_EXT)."""
    params = read_boot_params(prog)
    table = params.e820_table
    number = params.e820_entries.value_()
    if not number:
        raise Unavailable("boot_params.e820_entries is 0")
    if number > len(table):
        raise Unavailable(f"boot_params.e820_entries is {number}: the array has {len(table)}")
    entries = decode_e820_entries(table.to_bytes_(), number)
    chain = read_setup_data(prog, params)
    if chain.problem is not None and number == len(table):
        raise Unavailable(f"boot_params.e820_table is full, and its extension is unknown: {chain.problem}")
    for extension in chain.entries:
        if extension.type == SETUP_E820_EXT:
            what = f"setup_data {extension.address:#x} (SETUP_E820_EXT)"
            if extension.length > limits.E820_ENTRIES * _ENTRY_BYTES:
                raise Unavailable(f"{what}: {extension.length} bytes are not credible")
            entries.extend(decode_e820_ext(read_physical(prog, extension.data, extension.length, what)))
    return _whole(entries, "boot_params.e820_table")


def _whole(entries: list[E820Entry], what: str) -> tuple[E820Entry, ...]:
    """The entries, unless some of them read as zeros: a table may cross into a page that is not captured."""
    for index, entry in enumerate(entries):
        if entry == (0, 0, 0):
            raise Unavailable(f"{what}: reads as zeros from entry {index} on, not captured")
    return tuple(entries)
