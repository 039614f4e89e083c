# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was read from a target, once, as plain data.

Addresses are physical and in bytes, ends are exclusive, PFNs are named ``pfn``. A part that could not be read is
``None``, and :attr:`Snapshot.missing` says why.

These classes define the snapshot file: a new field needs a default, so that older files stay readable, and bounds
(:mod:`~drgn_unaccepted.field_types`). ``scripts/schemas`` generates the JSON Schema.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.field_types import U32, U64, Bounds, Choices, Count, Edge, frozen, hexadecimal
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.header import HEADER, X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import Range, merge
from drgn_unaccepted.model.stub import allocate_unaccepted_bitmap

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
_PFN_END = limits.PHYSICAL_END >> PAGE_SHIFT

CRASH_KERNEL = "crash-kernel"  #: How the table beside a dump was read: its bits are those of the crash.

Pfn = Annotated[int, Bounds(0, _PFN_END - 1)]
PfnEnd = Annotated[int, Bounds(0, _PFN_END)]
Name = Annotated[str, Bounds(0, 64)]
E820Table = Annotated[tuple[E820Entry, ...], Bounds(0, limits.E820_ENTRIES)]


@frozen
class Target:
    """The kernel or dump that was read."""

    kind: Annotated[str, Choices(("live", "remote", "vmcore", "log", "sos"))]
    path: Optional[str]  #: File name of the dump, log or report, or QEMU's socket; ``None`` for the running kernel.
    release: Optional[str]  #: ``init_uts_ns.name.release``, from VMCOREINFO's ``OSRELEASE``.
    build_id: Optional[str]  #: GNU build-id in hexadecimal, from VMCOREINFO's ``BUILD-ID`` (Linux 5.9 and later).
    debug_info: Annotated[str, Choices(("dwarf", "btf", "none"))]
    taken_at: str  #: When the target was read, ISO 8601 in UTC.
    boot_id: Optional[str] = None  #: ``sysctl_bootid``; ``None`` if nobody ever read /proc/sys/kernel/random/boot_id.
    snapshot_path: Optional[str] = None  #: The snapshot file that this was read from.
    debug_info_path: Optional[str] = None  #: The file given with ``-s`` that has the types.
    crashed_at: Optional[str] = None  #: When the kernel crashed (``CRASHTIME`` of VMCOREINFO), like ``taken_at``.

    @property
    def is_running(self) -> bool:
        return self.kind in ("live", "remote")


@frozen
class Table:
    """``struct efi_unaccepted_memory``: one bit for each naturally aligned unit, 1 is unaccepted."""

    state: Annotated[str, Choices(("present", "absent", "not-captured", "unsupported", "invalid"))]
    #: Why the state is not ``present``. If it is: why not to believe the bitmap, or what is known about a saved one.
    reason: Optional[str] = None
    address: Optional[U64] = None  #: ``efi.unaccepted``, a physical address; ``None`` where there is no table.
    version: Optional[U32] = None
    unit_size: Optional[U32] = None
    phys_base: Optional[U64] = None  #: Physical address of bit 0.
    bitmap_bytes: Optional[U64] = None  #: The C field ``size``: bytes of bitmap, not of memory.
    bitmap: Optional[bytes] = None  #: The bitmap, whole; ``None`` unless the state is ``present``.
    read_through: Optional[Annotated[str, Choices(("physical", "direct-map", "bpf", "file", CRASH_KERNEL))]] = None
    unmapped: Optional[tuple[Range, ...]] = None  #: Pages that the direct map does not map; ``None``: not examined.
    same_boot: Optional[bool] = None  #: Whether boot IDs prove that a saved table is from the target's boot.

    @property
    def is_saved(self) -> bool:
        """The bytes were saved earlier (``--table``): the bitmap is older than the target."""
        return self.read_through == "file"

    @property
    def is_doubted(self) -> bool:
        """There is a bitmap that must not be believed; :attr:`reason` says why."""
        return self.bitmap is not None and self.reason is not None and not self.is_saved

    def to_bytes(self) -> Optional[bytes]:
        """Header and bitmap as in memory; ``None`` if the table was not read completely."""
        if self.bitmap is None:
            return None
        return HEADER.pack(self.version, self.unit_size, self.phys_base, self.bitmap_bytes) + self.bitmap

    @property
    def geometry(self) -> Optional[Geometry]:
        """The covered range, if the header was read and is sane."""
        base, nbytes, unit = self.phys_base, self.bitmap_bytes, self.unit_size
        if self.state in ("invalid", "unsupported") or base is None or nbytes is None or unit is None:
            return None
        return Geometry(base, nbytes, unit)


NOT_ASKED = "not asked for"  #: In :attr:`Snapshot.missing`, of a part that was not wanted.


@frozen
class EfiMap:
    """The last EFI memory map that the stub saw, or the rest of it."""

    provenance: Annotated[str, Choices(("boot-map", "kernel-log", "runtime-map"))]
    complete: bool  #: Whether this is the whole final map. Never compare anything with an incomplete one.
    note: Optional[str]  #: Why it is incomplete, or which changes of the kernel were undone to complete it.
    descriptors: Annotated[tuple[EfiDescriptor, ...], Bounds(0, limits.EFI_DESCRIPTORS)]  #: Perhaps not sorted.
    buffer: Optional[Range] = None  #: Where the map itself lies.
    ambiguous: bool = False  #: Merged entries could not be split again: a replayed bitmap may have too many bits.
    conflict: Optional[str] = None  #: How the map in memory differs from the one in the log.

    @property
    def is_whole(self) -> bool:
        """Complete and unambiguous: what the stub made of it can be replayed."""
        return self.complete and not self.ambiguous

    def memory(self, *types: int) -> list[Range]:
        """The memory of these EFI types, merged."""
        return merge((d.start, d.end) for d in self.descriptors if d.type in types and d.start < d.end)


@frozen
class E820Tables:
    """``e820_table`` (current), ``e820_table_kexec``, ``e820_table_firmware`` and the boot_params copy."""

    current: Optional[E820Table]
    kexec: Optional[E820Table]
    firmware: Optional[E820Table]
    boot_params: Optional[E820Table]  #: ``boot_params.e820_table`` with its ``SETUP_E820_EXT`` extension.


@frozen
class ListedChunks:
    """The pages on one ``zone->unaccepted_pages``, in list order, as parallel columns (never modified)."""

    pfns: array[int]  #: First page of each chunk; the other columns are fields of its ``struct page``.
    flags: array[int]
    refcounts: array[int]
    page_types: array[int]
    problems: tuple[str, ...] = ()  #: Why the walk ended early, and wrong links; empty for a sane list.


@frozen
class Watermarks:
    """``zone->_watermark[]`` in pages, and the boost that ``min_wmark_pages()`` and its siblings add to each."""

    min: U64
    low: U64
    high: U64
    promo: Optional[U64]  #: ``None`` before Linux 5.18, which has no promotion watermark.
    boost: U64


@frozen
class Zone:
    """One populated ``struct zone``. Counts are in pages, as the kernel keeps them."""

    node: Annotated[int, Bounds(0, limits.NODES - 1)]
    name: Name
    start_pfn: U64
    spanned_pages: U64
    present_pages: U64
    managed_pages: Count
    free_pages: Count  #: ``vm_stat[NR_FREE_PAGES]`` plus the per-CPU differences.
    unaccepted_pages: Optional[Count]  #: ``vm_stat[NR_UNACCEPTED]``; ``None`` on a kernel without the counter.
    buddy_pages: Count  #: Pages on ``free_area[]``, without those of MIGRATE_ISOLATE.
    watermarks: Watermarks
    locked: Optional[bool]  #: ``zone->lock`` was held: lists and counters may be between two states.
    listed: Optional[ListedChunks]  #: ``None`` on a kernel without ``zone->unaccepted_pages``.
    zone_id: Optional[U64] = None  #: ``flags >> KernelBuild.zone_id_shift`` of this zone's pages.
    problems: tuple[str, ...] = ()  #: What a count lacks, for example the difference of a CPU that is not in the dump.


@frozen
class Counters:
    """``vm_zone_stat[]``, the global counters, in pages."""

    free_pages: Count
    unaccepted_pages: Optional[Count]
    unaccepted_diff: Optional[Count]  #: Sum of the per-CPU differences of NR_UNACCEPTED, which should be 0.


@frozen
class Task:
    pid: U32
    comm: Name
    cpu: Optional[U32]


@frozen
class Accept:
    """One ``struct accept_range`` on ``accepting_list``: a call of ``accept_memory()`` in flight."""

    address: U64  #: Virtual address of the entry, on the stack of the accepting task.
    start_unit: U64  #: Indices into the bitmap; the end is exclusive.
    end_unit: U64
    task: Optional[Task]  #: For an interrupt stack, the interrupted task; ``None`` if no stack holds the entry.

    @property
    def is_empty(self) -> bool:
        """Whether its memory is above the bitmap."""
        return self.start_unit >= self.end_unit


@frozen
class AcceptingList:
    entries: Annotated[tuple[Accept, ...], Bounds(0, limits.ACCEPTING_ENTRIES)]
    problems: tuple[str, ...] = ()


@frozen
class Platform:
    """The kind of guest, and its policy of acceptance."""

    kind: Optional[Annotated[str, Choices(("tdx", "snp", "none"))]]
    cc_vendor: Optional[str]  #: ``enum cc_vendor`` by name, without its prefix.
    sev_status: Optional[U64]
    lazy: Optional[bool]  #: ``lazy_accept``, which ``accept_memory=lazy`` sets.


@frozen
class KernelBuild:
    """Properties of the kernel, probed and not derived from its version. ``None``: unknown."""

    unaccepted_memory: Optional[bool]  #: CONFIG_UNACCEPTED_MEMORY.
    unaccepted_page_type: Optional[U64]  #: ``PGTY_unaccepted`` at its place in ``page_type`` (Linux 6.12 and later).
    chunk_pages: Annotated[int, Choices(tuple(1 << n for n in range(limits.PAGE_ORDERS)))]  #: ``1 << MAX_PAGE_ORDER``.
    static_key: Optional[Count]  #: Count of ``zones_with_unaccepted_pages``, which is gone in Linux 6.15.
    vmcoreinfo_unaccepted: bool  #: VMCOREINFO has PAGE_UNACCEPTED_MAPCOUNT_VALUE (Linux 6.16 and later).
    kexec_booted: Optional[bool]  #: ``efi_setup`` is not 0.
    unaccepts: Optional[bool]  #: Has functions of an unmerged series that set bits again.
    system_state: Optional[str] = None  #: ``system_state`` by name without its prefix, in lower case.
    reserved_flag: Optional[U64] = None  #: ``1 << PG_reserved``; the bit moves between versions.
    cpus: Optional[Annotated[int, Bounds(0, limits.GLOBAL_ARRAY_LENGTH)]] = None  #: Present; a panic leaves one online.
    zone_id_shift: Optional[Annotated[int, Bounds(0, 64)]] = None  #: ZONEID_PGSHIFT.
    page_offset_base: Optional[U64] = None  #: The direct map; ``None`` without CONFIG_DYNAMIC_MEMORY_LAYOUT.
    vmalloc_base: Optional[U64] = None  #: Where vmalloc memory begins, behind the direct map.
    phys_base: Optional[Count] = None  #: How far the image is from where it is linked, in physical memory; signed.
    fixed_cma: Optional[tuple[Range, ...]] = ()  #: ``cma=SIZE@BASE``: given to the buddy allocator unaccepted.

    @property
    def is_booting(self) -> Optional[bool]:
        """The page allocator may not have all its memory yet (``page_alloc_init_late()``). ``None``: unknown."""
        return None if self.system_state is None else self.system_state in ("booting", "scheduling")


@frozen
class Image:
    """What the kernel's image says of itself."""

    banner: Optional[Name] = None  #: The release in ``linux_banner``.
    command_line: Optional[Annotated[str, Bounds(0, limits.COMMAND_LINE_BYTES)]] = None  #: ``saved_command_line``.
    fixes: tuple[Name, ...] = ()  #: Commits of fixes whose code or symbols are in the kernel.
    lacks: tuple[Name, ...] = ()  #: Commits of fixes whose code is not.


@hexadecimal
class NamedRange(NamedTuple):
    name: str
    start: Edge
    end: Edge


class KexecSegment(NamedTuple):
    image: Annotated[str, Choices(("kexec_image", "kexec_crash_image"))]
    start: Edge
    end: Edge


GIVEN_STATES = ("buddy", "in-use", "per-cpu", "given")  #: States of pages that were given to the buddy allocator once.
_OTHER_STATES = ("unaccepted", "reserved", "offline", "free", "uninitialised", "device", "absent", "damaged")


class PageRun(NamedTuple):
    """Consecutive pages of one state; ``end_pfn`` is exclusive.

    ``unaccepted`` is a listed chunk, head and body; ``per-cpu`` is on ``zone->per_cpu_pageset``. ``free`` has no
    references and is in no free list: a body of an allocation without compound head, or in transition.
    ``uninitialised`` was left by deferred initialisation. ``absent`` has no ``struct page``. ``damaged`` has an
    impossible node and zone, or those of a neighbour in the same page of the memmap. ``given`` are whole units, each
    with a page in a free list or in use; the others were not looked at. Pages whose ``struct page`` is not in the dump
    are in no run.
    """

    start_pfn: PfnEnd
    end_pfn: PfnEnd
    state: Annotated[str, Choices(GIVEN_STATES + _OTHER_STATES)]


@frozen
class Pages:
    """States of the pages under set bits, before them and under the table, and of those that were asked for."""

    runs: tuple[PageRun, ...]
    scanned: tuple[Range, ...]  #: Physical, sorted and merged.
    limited: Optional[str]  #: Why less than the wanted ranges was scanned; ``None`` if all were.
    #: PFNs of accepted pages right before an unaccepted unit that are in use and read as zeros.
    masked_pfns: Annotated[tuple[Pfn, ...], Bounds(0, limits.MASKED_PAGES)] = ()
    #: In a dump of /proc/vmcore, pages that are not all zeros, of memory whose struct pages do not tell its state.
    written: tuple[Range, ...] = ()


@frozen
class Translation:
    """A kernel virtual address that was asked for, through the page tables."""

    virtual: U64
    physical: Optional[U64]  #: None: not mapped, or a table is not in the target; ``reason`` says which.
    reason: Optional[str] = None


@frozen
class Snapshot:
    target: Target
    table: Table
    kernel: Optional[KernelBuild] = None
    efi_map: Optional[EfiMap] = None
    e820: Optional[E820Tables] = None
    zones: Optional[Annotated[tuple[Zone, ...], Bounds(0, limits.NODES * limits.ZONES)]] = None
    counters: Optional[Counters] = None
    accepting: Optional[AcceptingList] = None
    platform: Optional[Platform] = None
    kernel_memory: Optional[tuple[NamedRange, ...]] = None  #: Image, initrd, setup_data, EFI memory map, the table.
    pages: Optional[Pages] = None
    kexec_segments: Optional[tuple[KexecSegment, ...]] = None
    reclaiming: Optional[tuple[Task, ...]] = None  #: Tasks in direct reclaim.
    panic: Optional[str] = None  #: What follows the last ``Kernel panic - not syncing: `` in the log; empty: no panic.
    image: Image = Image()
    panic_task: Optional[Task] = None  #: The task whose stack the kernel printed with the panic.
    missing: Mapping[str, str] = field(default_factory=dict)  #: Why a part is ``None``, by name: ``e820.firmware``.
    torn: tuple[str, ...] = ()  #: What changed while it was read: ``zones: list of Normal changed while ...``.
    translations: tuple[Translation, ...] = ()  #: Of :attr:`Wanted.virtual`.

    def unit_base(self) -> tuple[Optional[tuple[int, int]], Optional[str]]:
        """``phys_base`` and the unit size that turn unit indices into addresses, and their origin.

        Without the table, it is what the stub makes of the EFI memory map.
        """
        geometry, origin = self.table.geometry, "table"
        if geometry is None and self.efi_map is not None and self.efi_map.complete:
            geometry, origin = allocate_unaccepted_bitmap(self.efi_map.descriptors, X86_UNIT_SIZE), "EFI memory map"
        return (None, None) if geometry is None else ((geometry.phys_base, geometry.unit_size), origin)

    def in_flight(self, more: int = 0) -> Optional[list[Range]]:
        """The units of ``accepting_list``, of each entry so many ``more``; None where it or :meth:`unit_base` is."""
        base, _ = self.unit_base()
        if self.accepting is None or base is None:
            return None
        start, unit = base
        units = ((entry.start_unit, entry.end_unit + more) for entry in self.accepting.entries if not entry.is_empty)
        return merge((start + low * unit, start + high * unit) for low, high in units)


ALL_PARTS = frozenset(part.name for part in fields(Snapshot))  #: The parts that may be None, apart from the table.
ALL_PARTS -= {"target", "table", "missing", "torn", "translations", "panic_task"}
#: The parts that tell the state of memory, beside the table and the pages.
STATE = frozenset(("kernel", "zones", "counters", "efi_map", "e820", "kernel_memory", "accepting"))
ALL_MEMORY = (Range(0, limits.PHYSICAL_END),)


@frozen
class Wanted:
    """What a command needs of the target."""

    #: Names of parts. ``pages`` are those under set bits, before them, and under the table, for the checks.
    parts: frozenset[str]
    #: Ranges whose state is asked for; their pages are read where the bitmap does not decide.
    where: tuple[Range, ...] = ()
    bitmap: bool = True  #: Whether the bitmap may decide; not with ``--source page-lists``.
    virtual: tuple[int, ...] = ()  #: Kernel virtual addresses to translate.


class Sample(NamedTuple):
    """One of several snapshots over time."""

    number: int
    elapsed: float  #: Seconds since the first sample, by CLOCK_MONOTONIC.
    cost: float  #: Seconds that this sample took.
    snapshot: Snapshot
