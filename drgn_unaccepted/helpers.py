# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Unaccepted Memory
-----------------

Helpers on a :class:`drgn.Program`, named after the kernel's functions where there are such functions. Each takes
``prog`` first or uses drgn's default program, and reads the target at each call; :func:`take_snapshot` is for several
questions about one state.

Addresses are physical and in bytes, ends exclusive. A part that is not in the target raises
:class:`~drgn_unaccepted.targets.errors.Unavailable` with the reason; only :func:`resolve_address` answers on any
target. A missing table, as in a kdump of Linux 6.6 and later, is no evidence that memory is accepted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from operator import index
from typing import Callable, TypeVar

from drgn import Program
from drgn.helpers.common.prog import takes_program_or_default

from drgn_unaccepted import __all__ as __all__
from drgn_unaccepted.answer.allocator import zone_name
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.translation import physical
from drgn_unaccepted.answer.truth import UNACCEPTED, UNKNOWN, Piece
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel.boot import read_e820
from drgn_unaccepted.kernel.capture import capture, samples, table_readers, translate
from drgn_unaccepted.kernel.efi import read_efi_map
from drgn_unaccepted.kernel.platform import read_kernel_build
from drgn_unaccepted.kernel.table import read_table
from drgn_unaccepted.kernel.tasks import read_accepting
from drgn_unaccepted.kernel.zones import read_zones
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.addresses import Query, bounded
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.ranges import PAGE_SHIFT, PAGE_SIZE, Range, merge
from drgn_unaccepted.run import look
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, STATE, Accept, EfiMap, Snapshot, Table, Wanted
from drgn_unaccepted.targets.adopt import adopt
from drgn_unaccepted.targets.errors import DAMAGED, Unavailable

_Part = TypeVar("_Part")


@takes_program_or_default
def efi_unaccepted_table(prog: Program) -> Table:
    """Get the table of unaccepted memory, ``struct efi_unaccepted_memory``.

    >>> efi_unaccepted_table(prog).state
    'present'

    It is located through ``efi.unaccepted`` (Linux kernel commit 745e3ed85f71 (in v6.5)) and read whole. If it is
    absent or not captured, :attr:`Table.state` says so. If :attr:`Table.is_doubted`, :attr:`Table.reason` says what
    contradicts the bitmap.
    """
    judgement = _judged(prog)
    return dataclasses.replace(judgement.snapshot.table, reason=judgement.doubt or judgement.snapshot.table.reason)


@takes_program_or_default
def load_types(prog: Program) -> str:
    """Make types, variables and symbols resolve without debuginfo, out of the target's own BTF and kallsyms; return
    ``btf``, or ``dwarf`` where the program has debuginfo.

    All helpers do this first. After it ``prog["efi"]``, drgn's helpers and its commands (``%crash log``) work too,
    except with variables of unknown type: BTF has none for them.

    :raises TargetError: the target does not describe itself
    """
    return adopt(prog).debug_info


@takes_program_or_default
def resolve_address(prog: Program, address: int) -> Piece:
    """Get the state of an address on any target (``unaccepted``, ``accepted``, ``no-ram``, or ``unknown``), its proof
    or why there is none, and the bounds of the memory around it that has both.

    :param address: ``phys_addr_t``, or a kernel virtual address
    :raises ValueError: it is neither, or cannot be translated; the reason
    """
    query = bounded(Query(index(address), None, f"{address:#x}"))
    judgement = _judged(prog, *ALL_MEMORY)
    translations = translate(prog, (query.start,) if query.is_virtual else ())
    where = physical(dataclasses.replace(judgement.snapshot, translations=translations), query).start
    return next(piece for piece in judgement.pieces(0, PHYSICAL_END) if where < piece.end)


@takes_program_or_default
def for_each_unaccepted_range(prog: Program) -> Iterator[Range]:
    """Iterate over the unaccepted ranges, in order of address, neighbours joined: from the bitmap, or where it is not
    in this target from what lists, struct pages and the EFI memory map prove together.

    :raises Unavailable: not every unit is proven; the reason
    """
    judgement = _judged(prog, *ALL_MEMORY)
    if not judgement.exact:
        raise Unavailable(judgement.reason or "not every unit of memory is proven to be accepted or unaccepted")
    return iter(merge(piece.range for piece in judgement.pieces(0, PHYSICAL_END) if piece.state == UNACCEPTED))


@takes_program_or_default
def range_contains_unaccepted_memory(prog: Program, start: int, size: int) -> bool:
    """Return whether any unit of a range is unaccepted, or the unit after it where the range ends on a unit boundary
    (the guard for ``load_unaligned_zeropad()``).

    True whenever the kernel's function of any version is, and for the last unit that its walk, which steps by units
    from where the range starts, can miss. The range is rounded outwards to whole pages, as since Linux kernel commit
    948a013a54c4 (in v7.0); before, a range that ended inside a page had no guard.

    :param start: ``phys_addr_t``
    :param size: ``unsigned long``, bytes
    :raises ValueError: the range is not below 2^52
    :raises Unavailable: the state is not known; the reason
    """
    if not 0 <= start <= start + size <= PHYSICAL_END:
        raise ValueError(f"{start:#x}, {size:#x} bytes: not a physical range below 2^52")
    first, end = start // PAGE_SIZE * PAGE_SIZE, -(-max(start + size, start + 1) // PAGE_SIZE) * PAGE_SIZE
    judgement = _judged(prog, Range(first, min(end + 1, PHYSICAL_END)))
    # A range that ends on a unit boundary has a guard.
    pieces = list(judgement.pieces(first, min(end + (end % judgement.evidence.unit == 0), PHYSICAL_END)))
    unknown = next((piece for piece in pieces if piece.state == UNKNOWN), None)
    is_unaccepted = any(piece.state == UNACCEPTED for piece in pieces)
    if unknown is not None and not is_unaccepted:
        raise Unavailable(f"{unknown.start:#x}-{unknown.end:#x}: {unknown.reason}")
    return is_unaccepted


@takes_program_or_default
def pfn_is_unaccepted_memory(prog: Program, pfn: int) -> bool:
    """Return what the kernel's function would: the last page of an accepted unit before an unaccepted one counts, too.

    :param pfn: ``unsigned long``
    :raises ValueError: the page is not below 2^52
    :raises Unavailable: the state is not known; the reason
    """
    if not 0 <= pfn < PHYSICAL_END >> PAGE_SHIFT:
        raise ValueError(f"{pfn:#x}: not the PFN of a page below 2^52 (an address?)")
    return range_contains_unaccepted_memory(prog, pfn << PAGE_SHIFT, PAGE_SIZE)


@takes_program_or_default
def phys_to_unit(prog: Program, address: int) -> int | None:
    """Get the unit (the bit's index) of an address; ``None`` outside the bitmap, where the kernel takes it as accepted.

    :param address: ``phys_addr_t``
    :raises ValueError: the address is not below 2^52
    :raises Unavailable: the header is not in this target, or there is no table
    """
    if not 0 <= address < PHYSICAL_END:
        raise ValueError(f"{address:#x}: not a physical address below 2^52")
    judgement = _judged(prog)
    if judgement.geometry is None:
        raise Unavailable(judgement.reason or "where the bitmap begins is not known")
    return judgement.geometry.index(address)


@takes_program_or_default
def efi_memory_map(prog: Program) -> EfiMap:
    """Get the EFI memory map: the one that the stub handed over, that of the kernel's log (``efi=debug``), or the
    runtime map. :attr:`EfiMap.provenance` and :attr:`EfiMap.complete` say which.

    :raises Unavailable: none of them is in this target
    """
    return _part(prog, read_efi_map)


@takes_program_or_default
def e820_table(prog: Program, which: str = "current") -> tuple[E820Entry, ...]:
    """Get an e820 table: ``current`` (``e820_table``), ``kexec``, ``firmware`` or ``boot_params``.

    :raises Unavailable: it is not in this target
    """
    tables, missing = _part(prog, read_e820)
    if which not in vars(tables):
        raise ValueError(f"no such e820 table: {which}")
    entries: tuple[E820Entry, ...] | None = getattr(tables, which)
    if entries is None:
        raise Unavailable(missing[f"e820.{which}"])
    return entries


@takes_program_or_default
def for_each_unaccepted_page(prog: Program) -> Iterator[int]:
    """Iterate over ``zone->unaccepted_pages`` of all zones: the PFN of the first page of each chunk, in list order. Of
    the ``1 << MAX_PAGE_ORDER`` pages of a chunk (4 MiB on x86) one unit can be accepted already, as a guard.

    :raises Unavailable: the zones are not in this target, or a list is damaged
    """
    zones = _part(prog, lambda _: read_zones(prog, read_kernel_build(prog)))
    if not zones:
        raise Unavailable("no zone is populated, as where node_data reads as zeros")
    for zone in zones:
        if zone.listed is None:
            raise Unavailable("struct zone has no unaccepted_pages: kernel without CONFIG_UNACCEPTED_MEMORY")
        if zone.listed.problems:
            raise Unavailable(f"unaccepted_pages of {zone_name(zone)}: {zone.listed.problems[0]}")
        yield from zone.listed.pfns


@takes_program_or_default
def for_each_accepting_range(prog: Program) -> Iterator[Accept]:
    """Iterate over ``accepting_list``: the calls of ``accept_memory()`` in flight, in units, each with the task on
    whose stack its entry lies (Linux kernel commit 50e782a86c98 (in v6.6, 6.5.9)).

    :raises Unavailable: the list is not in this target, or it is damaged: after the entries that could be followed
    """
    accepting = _part(prog, read_accepting)
    yield from accepting.entries
    if accepting.problems:
        raise Unavailable(f"accepting_list: {accepting.problems[0]}")


@takes_program_or_default
def take_snapshot(prog: Program) -> Snapshot:
    """Read all that can be read, in the order that makes reads of a running kernel sound."""
    return capture(adopt(prog), Wanted(ALL_PARTS, ALL_MEMORY))


def _part(prog: Program, read: Callable[[Program], _Part]) -> _Part:
    adopt(prog)
    try:
        return read(prog)
    except DAMAGED as error:
        raise Unavailable(one_line(error)) from error


def _judged(prog: Program, *where: Range) -> Judgement:
    """The judgement of the table as it is now. What could contradict its bits is read when the table is first read."""
    opened = adopt(prog)
    kept: Judgement | None = prog.cache.get(_judged)
    again = kept and kept.again(read_table(prog, table_readers(opened)), where)
    if again is not None:
        return again
    judgement = look(lambda wanted: samples(opened, wanted), Wanted(STATE, where))[0]
    prog.cache[_judged] = judgement if judgement.by_bits else None
    return judgement
