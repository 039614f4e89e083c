# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a target once and return a Snapshot.

The order makes reads of a running kernel sound: bits only ever clear, and a page is freed or allocated only after its
bits were cleared. So pages, lists and counters are read first and the bitmap last: what then shows a page in use under
a set bit is a fault and no race.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Callable, Optional, TypeVar

import drgn

from drgn_unaccepted.commands import COMMANDS, Arguments
from drgn_unaccepted.kernel import table as table_reader
from drgn_unaccepted.kernel.debug_info import target_build_id
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.target import Opened
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.header import HEADER
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import PAGE_SIZE, KernelBuild, Snapshot, Table, Target, Zone

T = TypeVar("T")

_NOT_ASKED = "not asked for"


@dataclass(frozen=True)
class Wanted:
    """What a question needs of the target."""

    parts: frozenset[str]
    #: Physical ranges whose pages are looked at, whatever their bits say.
    addresses: tuple[Range, ...] = ()
    #: Look at the pages of all zones where there is no bitmap to tell which ones matter.
    whole_memmap: bool = False


def wanted(args: Arguments) -> Wanted:
    """What the parsed command needs."""
    command = COMMANDS[args.command or "summary"]
    return Wanted(command.parts, tuple(command.addresses(args)), command.whole_memmap)


@dataclass
class _Reading:
    """The state of one capture: what failed so far, and why."""

    opened: Opened
    wanted: Wanted
    missing: dict[str, str] = field(default_factory=dict)

    def part(self, name: str, read: Callable[[], T]) -> Optional[T]:
        """``read()``, or None with the reason noted under ``name``."""
        if name not in self.wanted.parts:
            self.missing[name] = _NOT_ASKED
            return None
        try:
            return read()
        except Unavailable as error:
            self.missing[name] = str(error)
        except drgn.FaultError as error:
            self.missing[name] = f"not in this target: {_one_line(error)}"
        except (LookupError, AttributeError) as error:
            self.missing[name] = f"this kernel has none, or its type is not known: {_one_line(error)}"
        except (ValueError, OSError) as error:
            self.missing[name] = _one_line(error)
        return None


def capture(opened: Opened, wanted: Wanted, saved: Optional[table_reader.SavedTable] = None) -> Snapshot:
    """Read what is ``wanted`` of an open target.

    :param saved: the table's bytes, saved elsewhere
    :raises TargetError: ``saved`` is of another table
    """
    reading = _Reading(opened, wanted)
    prog = opened.prog
    readers = _readers(opened)
    table = table_reader.read_table(prog, readers, saved)
    kernel = reading.part("kernel", lambda: _read_kernel(prog))
    zones = reading.part("zones", lambda: _read_zones(prog, kernel))
    counters = reading.part("counters", lambda: _read_counters(prog))
    pages = reading.part("pages", lambda: _read_pages(prog, wanted, table, zones, kernel))
    rest = _read_rest(reading)
    if opened.kind == "live" and saved is None and table.state == "present":
        table = table_reader.read_table(prog, readers)
    torn = []
    if opened.kind == "live" and counters is not None:
        again = reading.part("counters", lambda: _read_counters(prog))
        if again is not None and again.unaccepted_pages != counters.unaccepted_pages:
            torn.append(
                f"counters: NR_UNACCEPTED went from {counters.unaccepted_pages} to {again.unaccepted_pages} pages while the "
                "lists and the bitmap were read"
            )
    return Snapshot(
        target=_describe(opened),
        table=table,
        kernel=kernel,
        zones=zones,
        counters=counters,
        pages=pages,
        missing=reading.missing,
        torn=tuple(torn),
        **rest,
    )


def _describe(opened: Opened) -> Target:
    prog = opened.prog
    return Target(
        kind=opened.kind,
        path=opened.path,
        release=prog["UTS_RELEASE"].string_().decode("ascii", "replace"),
        build_id=target_build_id(prog),
        debug_info=opened.debug_info,
        taken_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _readers(opened: Opened) -> list[tuple[str, table_reader.Reader]]:
    return [("physical", table_reader.physical_reader(opened.prog, opened.elf))]


def _read_kernel(prog: drgn.Program) -> KernelBuild:
    from drgn_unaccepted.kernel.platform import read_kernel_build

    return read_kernel_build(prog)


def _read_zones(prog: drgn.Program, kernel: Optional[KernelBuild]) -> tuple[Zone, ...]:
    from drgn_unaccepted.kernel.zones import read_zones

    return read_zones(prog, _need(kernel))


def _read_counters(prog: drgn.Program):
    from drgn_unaccepted.kernel.zones import read_counters

    return read_counters(prog)


def _read_rest(reading: _Reading) -> dict[str, object]:
    """The parts that depend on no other."""
    prog = reading.opened.prog

    def e820():
        from drgn_unaccepted.kernel.e820 import read_e820

        tables, missing = read_e820(prog)
        reading.missing.update(missing)
        return tables

    def efi_map():
        from drgn_unaccepted.kernel.efi import read_efi_map

        return read_efi_map(prog)

    def accepting():
        from drgn_unaccepted.kernel.accepting import read_accepting

        return read_accepting(prog)

    def platform():
        from drgn_unaccepted.kernel.platform import read_platform

        return read_platform(prog)

    def kernel_memory():
        from drgn_unaccepted.kernel.layout import read_kernel_memory

        return read_kernel_memory(prog)

    def kexec_segments():
        from drgn_unaccepted.kernel.kexec import read_kexec_segments

        return read_kexec_segments(prog)

    def reclaiming():
        from drgn_unaccepted.kernel.tasks import read_reclaiming

        return read_reclaiming(prog)

    def panic():
        from drgn_unaccepted.kernel.log import read_panic

        return read_panic(prog)

    reads = (efi_map, e820, accepting, platform, kernel_memory, kexec_segments, reclaiming, panic)
    return {read.__name__: reading.part(read.__name__, read) for read in reads}


def _read_pages(
    prog: drgn.Program,
    wanted: Wanted,
    table: Table,
    zones: Optional[Sequence[Zone]],
    kernel: Optional[KernelBuild],
):
    from drgn_unaccepted.kernel.pages import read_pages

    return read_pages(prog, pages_that_matter(wanted, table, zones), _need(kernel))


def pages_that_matter(wanted: Wanted, table: Table, zones: Optional[Sequence[Zone]]) -> list[Range]:
    """Physical ranges whose ``struct page`` a question needs: under and right before set bits, and the table's own."""
    ranges = list(wanted.addresses)
    geometry = table.geometry
    if geometry is not None and table.bitmap is not None:
        # The page before a set unit is the one that needs the guard.
        ranges += [
            Range(max(0, start - PAGE_SIZE), end)
            for start, end in bits.unaccepted_ranges(geometry, table.bitmap)
        ]
    elif wanted.whole_memmap and zones is not None:
        ranges += [
            Range(zone.start_pfn * PAGE_SIZE, (zone.start_pfn + zone.spanned_pages) * PAGE_SIZE)
            for zone in zones
        ]
    if table.address is not None and table.bitmap_bytes is not None and table.state == "present":
        ranges.append(Range(table.address, table.address + HEADER.size + table.bitmap_bytes))
    return rng.merge(ranges)


def _need(kernel: Optional[KernelBuild]) -> KernelBuild:
    if kernel is None:
        raise Unavailable("how the kernel was built could not be told")
    return kernel


def _one_line(error: BaseException) -> str:
    # str() of a KeyError is the repr of its argument.
    return " ".join(str(error.args[0] if error.args else error).split())
