# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was read from a target, once, as plain data.

A :class:`Snapshot` is all that the rest of the program knows about a kernel: no drgn object, no open file.
Addresses are physical and in bytes, ends are exclusive, PFNs are named ``pfn``. A part that could not be read
is ``None`` and :attr:`Snapshot.missing` says why; there is no default in its place.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import UNACCEPTED, EfiDescriptor
from drgn_unaccepted.model.header import HEADER, X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import Range

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT


@dataclass(frozen=True)
class Target:
    """What was looked at."""

    #: ``live`` or ``vmcore``; out of a snapshot file the kind of the target that it was taken from.
    kind: str
    #: File name of the dump; ``None`` for the running kernel.
    path: Optional[str]
    #: ``init_uts_ns.name.release``, from VMCOREINFO's ``OSRELEASE``.
    release: Optional[str]
    #: GNU build-id of the kernel in hexadecimal, from VMCOREINFO's ``BUILD-ID`` (Linux 5.9 and later).
    build_id: Optional[str]
    #: Where types came from: ``dwarf``, ``btf`` or ``none``.
    debug_info: str
    #: When the snapshot was taken, ISO 8601 in UTC; for a vmcore, when the dump was read.
    taken_at: str
    #: ``sysctl_bootid``, what /proc/sys/kernel/random/boot_id shows; ``None`` where nobody ever read that file.
    boot_id: Optional[str] = None
    #: The snapshot file that this was read out of; ``None`` for a snapshot taken just now.
    snapshot_path: Optional[str] = None


@dataclass(frozen=True)
class Table:
    """``struct efi_unaccepted_memory``: one bit for each naturally aligned unit, 1 is unaccepted."""

    #: ``present``, ``absent``, ``not-captured``, ``unsupported`` or ``invalid``.
    state: str
    #: Why the state is not ``present``; with it, why the bitmap is not to be believed, or what is known of a saved one.
    reason: Optional[str] = None
    #: ``efi.unaccepted``, the table's physical address. ``None`` where there is no table.
    address: Optional[int] = None
    version: Optional[int] = None
    #: Bytes for one bit.
    unit_size: Optional[int] = None
    #: Physical address of bit 0.
    phys_base: Optional[int] = None
    #: The C field ``size``: bytes of bitmap, not of memory.
    bitmap_bytes: Optional[int] = None
    #: The bitmap, whole; ``None`` unless the state is ``present``.
    bitmap: Optional[bytes] = None
    #: How the bytes were reached: ``physical``, ``direct-map``, ``bpf`` or ``file``.
    read_through: Optional[str] = None
    #: Pages of the table whose direct-map address does not translate; ``None``: not looked at.
    unmapped: Optional[tuple[Range, ...]] = None
    #: Of a saved table: whether it is known to be of the target's boot, by both boot ids. ``None``: not a saved one.
    same_boot: Optional[bool] = None

    @property
    def is_saved(self) -> bool:
        """The bytes were saved earlier (``--table``), so the bitmap is not of the moment of the target."""
        return self.read_through == "file"

    @property
    def is_doubted(self) -> bool:
        """There is a bitmap, and :attr:`reason` says why not to believe it."""
        return self.bitmap is not None and self.reason is not None and not self.is_saved

    def to_bytes(self) -> Optional[bytes]:
        """The table as it lies in memory, header and bitmap; ``None`` where it was not read whole."""
        if self.bitmap is None:
            return None
        assert self.version is not None and self.unit_size is not None
        assert self.phys_base is not None and self.bitmap_bytes is not None
        return HEADER.pack(self.version, self.unit_size, self.phys_base, self.bitmap_bytes) + self.bitmap

    @property
    def geometry(self) -> Optional[Geometry]:
        """The covered range, where the header was read and is sane."""
        if self.state in ("invalid", "unsupported") or self.phys_base is None:
            return None
        if self.unit_size is None or self.bitmap_bytes is None:
            return None
        return Geometry(self.phys_base, self.bitmap_bytes, self.unit_size)


@dataclass(frozen=True)
class EfiMap:
    """The EFI memory map, as the stub saw it last, or what is left of it."""

    #: ``boot-map``, ``kernel-log`` or ``runtime-map``.
    provenance: str
    #: Whether it is the whole final map. Never hold anything against an incomplete one.
    complete: bool
    #: Why it is incomplete, or what had to be undone to make it whole.
    note: Optional[str]
    #: In map order, which need not be sorted.
    descriptors: tuple[EfiDescriptor, ...]
    #: Physical address and length of the buffer, where known.
    buffer: Optional[Range] = None
    #: Merged entries that could not be told apart again, so that the replayed bitmap may hold too many bits.
    ambiguous: bool = False


@dataclass(frozen=True)
class E820Tables:
    """``e820_table`` (current), ``e820_table_kexec``, ``e820_table_firmware`` and the boot_params copy."""

    current: Optional[tuple[E820Entry, ...]]
    kexec: Optional[tuple[E820Entry, ...]]
    firmware: Optional[tuple[E820Entry, ...]]
    #: ``boot_params.e820_table`` with its ``SETUP_E820_EXT`` extension.
    boot_params: Optional[tuple[E820Entry, ...]]


@dataclass(frozen=True)
class ListedChunks:
    """The pages on one ``zone->unaccepted_pages``, in list order, as parallel columns (never modified)."""

    #: PFN of each chunk's first page.
    pfns: array[int]
    #: ``struct page.flags``.
    flags: array[int]
    #: ``struct page._refcount.counter``.
    refcounts: array[int]
    #: ``struct page.page_type`` as unsigned 32 bits.
    page_types: array[int]
    #: What ended the walk early or was wrong with the links; empty for a sane list.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Watermarks:
    """``zone->_watermark[]``, in pages, and what ``min_wmark_pages()`` and its like add to each of them."""

    min: int
    low: int
    high: int
    #: ``None`` before Linux 5.18, which has no promotion watermark.
    promo: Optional[int]
    #: ``zone->watermark_boost``. ``/proc/zoneinfo`` shows the marks with it added.
    boost: int


@dataclass(frozen=True)
class Zone:
    """One populated ``struct zone``. Counts are in pages, as the kernel keeps them."""

    node: int
    name: str
    start_pfn: int
    spanned_pages: int
    present_pages: int
    managed_pages: int
    #: ``vm_stat[NR_FREE_PAGES]`` plus the per-CPU differences.
    free_pages: int
    #: ``vm_stat[NR_UNACCEPTED]``; ``None`` on a kernel without the counter.
    unaccepted_pages: Optional[int]
    #: Pages on ``free_area[]``, without those of MIGRATE_ISOLATE.
    buddy_pages: int
    watermarks: Watermarks
    #: ``zone->lock`` was held: the lists and counters may be between two states.
    locked: Optional[bool]
    #: ``None`` on a kernel without ``zone->unaccepted_pages``.
    listed: Optional[ListedChunks]
    #: What ``flags >> KernelBuild.zone_id_shift`` is in the pages of this zone.
    zone_id: Optional[int] = None
    #: What a count lacks, as the difference of a CPU that is not in the dump.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counters:
    """``vm_zone_stat[]``, the global counters, in pages."""

    free_pages: int
    unaccepted_pages: Optional[int]
    #: Sum of the per-CPU ``vm_stat_diff[NR_UNACCEPTED]``, which should be 0.
    unaccepted_diff: Optional[int]


@dataclass(frozen=True)
class Task:
    pid: int
    comm: str
    cpu: Optional[int]


@dataclass(frozen=True)
class Accept:
    """One ``struct accept_range`` on ``accepting_list``: a call of ``accept_memory()`` in flight."""

    #: Virtual address of the entry, which lies on the stack of the accepting task.
    address: int
    #: First unit and end unit (exclusive), indices into the bitmap.
    start_unit: int
    end_unit: int
    #: On an interrupt stack, the task that was interrupted there; ``None`` where no stack holds the entry.
    task: Optional[Task]


@dataclass(frozen=True)
class AcceptingList:
    entries: tuple[Accept, ...]
    #: What ended the walk early or was wrong with the links.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Platform:
    """Who would carry out an accept, and by which policy."""

    #: ``tdx``, ``snp`` or ``none``; ``None`` where nothing that tells could be read.
    kind: Optional[str]
    #: ``enum cc_vendor`` by name, without its prefix.
    cc_vendor: Optional[str]
    #: ``sev_status``, the MSR's value.
    sev_status: Optional[int]
    #: ``lazy_accept``: ``accept_memory=lazy`` or ``eager``.
    lazy: Optional[bool]


@dataclass(frozen=True)
class KernelBuild:
    """What the kernel was built with, probed and not derived from its version. ``None``: could not be told."""

    #: CONFIG_UNACCEPTED_MEMORY: ``struct zone`` has ``unaccepted_pages``.
    unaccepted_memory: Optional[bool]
    #: ``PGTY_unaccepted`` as it stands in ``page_type`` (Linux 6.12 and later).
    unaccepted_page_type: Optional[int]
    #: Pages of one chunk: ``1 << MAX_PAGE_ORDER``.
    chunk_pages: int
    #: ``zones_with_unaccepted_pages``: the static key's count; ``None`` where the key is gone (6.15).
    static_key: Optional[int]
    #: VMCOREINFO has PAGE_UNACCEPTED_MAPCOUNT_VALUE (Linux 6.16 and later).
    vmcoreinfo_unaccepted: bool
    #: The second kernel of a kexec: ``efi_setup`` is not 0.
    kexec_booted: Optional[bool]
    #: ``unaccept_memory()`` or ``unaccept_hotplug_memory()`` exists, so bits may be set again (unmerged series).
    unaccepts: Optional[bool]
    #: ``system_state`` by name without its prefix, in small letters: ``booting``, ``scheduling``, ``running``, ...
    system_state: Optional[str] = None
    #: ``1 << PG_reserved``; the bit moves between versions.
    reserved_flag: Optional[int] = None
    #: Present CPUs, which bound how many chunks can be between a list and the accepting_list. A panic takes all but
    #: one off the online mask.
    cpus: Optional[int] = None
    #: ZONEID_PGSHIFT: ``flags >> zone_id_shift`` of a page is its node and zone.
    zone_id_shift: Optional[int] = None

    @property
    def is_booting(self) -> Optional[bool]:
        """The page allocator need not have all its memory yet (``page_alloc_init_late()``). ``None``: not known."""
        return None if self.system_state is None else self.system_state in ("booting", "scheduling")


class NamedRange(NamedTuple):
    name: str
    start: int
    end: int


class KexecSegment(NamedTuple):
    #: ``kexec_image`` or ``kexec_crash_image``.
    image: str
    start: int
    end: int


class PageRun(NamedTuple):
    """Consecutive pages of one state; ``end_pfn`` is exclusive.

    States: ``buddy`` (in a free list), ``in-use`` (allocated), ``unaccepted`` (head and body of a listed chunk),
    ``reserved`` (PageReserved), ``offline``, ``free`` (no references, in no free list that its page shows: a per-CPU
    list, a body of an allocation without compound head, or on the way from one state to another), ``uninitialised``
    (by deferred initialisation: poisoned, all zeros, or from ``pgdat->first_deferred_pfn`` on), ``device``
    (ZONE_DEVICE), ``absent`` (no ``struct page``). Pages whose ``struct page`` is not in the dump are in no run.
    """

    start_pfn: int
    end_pfn: int
    state: str


@dataclass(frozen=True)
class Pages:
    """States of the pages that matter: those under set bits, before them, under the table, and those asked for."""

    runs: tuple[PageRun, ...]
    #: What was looked at, as physical ranges, sorted and merged.
    scanned: tuple[Range, ...]
    #: Why less than the wanted ranges was looked at; ``None`` when all was.
    limited: Optional[str]
    #: PFNs of accepted pages right before an unaccepted unit that are in use and read as zeros.
    masked_pfns: tuple[int, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    target: Target
    table: Table
    kernel: Optional[KernelBuild] = None
    efi_map: Optional[EfiMap] = None
    e820: Optional[E820Tables] = None
    zones: Optional[tuple[Zone, ...]] = None
    counters: Optional[Counters] = None
    accepting: Optional[AcceptingList] = None
    platform: Optional[Platform] = None
    #: Memory that the kernel is known to use: image, initrd, setup_data, EFI memory map, the table.
    kernel_memory: Optional[tuple[NamedRange, ...]] = None
    pages: Optional[Pages] = None
    kexec_segments: Optional[tuple[KexecSegment, ...]] = None
    #: Tasks in direct reclaim.
    reclaiming: Optional[tuple[Task, ...]] = None
    #: What follows the last ``Kernel panic - not syncing: `` in the log; empty where it has none.
    panic: Optional[str] = None
    #: Why a part above is ``None``, by its field name; parts of parts as ``e820.firmware``.
    missing: Mapping[str, str] = field(default_factory=dict)
    #: Parts that changed while they were read from a live kernel, and how; each begins with the part's name:
    #: ``zones: list of Normal changed while it was walked``.
    torn: tuple[str, ...] = ()

    def unit_base(self) -> tuple[Optional[tuple[int, int]], Optional[str]]:
        """``phys_base`` and the unit size that turn unit indices into addresses, and where they come from.

        Without the table the EFI memory map still tells the base: the stub rounds the lowest type 15 address down to a
        unit (``allocate_unaccepted_bitmap()``).
        """
        geometry = self.table.geometry
        if geometry is not None:
            return (geometry.phys_base, geometry.unit_size), "table"
        if self.efi_map is not None and self.efi_map.complete:
            starts = [d.start for d in self.efi_map.descriptors if d.type == UNACCEPTED]
            if starts:
                return (min(starts) // X86_UNIT_SIZE * X86_UNIT_SIZE, X86_UNIT_SIZE), "EFI memory map"
        return None, None


#: The parts that may be None, beside the table.
ALL_PARTS = frozenset(
    (
        "kernel",
        "efi_map",
        "e820",
        "zones",
        "counters",
        "accepting",
        "platform",
        "kernel_memory",
        "pages",
        "kexec_segments",
        "reclaiming",
        "panic",
    )
)


#: All physical addresses.
ALL_MEMORY = (Range(0, PHYSICAL_END),)


@dataclass(frozen=True)
class Wanted:
    """What a command needs of the target."""

    #: Names of parts. ``pages`` are those under set bits, before them, and under the table, for the checks.
    parts: frozenset[str]
    #: Physical ranges whose state is asked for; their pages are read where the bitmap does not decide.
    where: tuple[Range, ...] = ()
    #: Whether the bitmap may decide; not with ``--source page-lists``.
    bitmap: bool = True
