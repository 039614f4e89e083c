# SPDX-License-Identifier: LGPL-2.1-or-later
"""The types of all answers: JSON documents, integers for addresses and bytes, ends exclusive, None for unknown.

A command prints its document with ``--format json``; views turn it into other forms. ``schema/answers.json`` is
generated from these types. A new key is no new version of :data:`SCHEMA`; a changed meaning is.
"""

from __future__ import annotations

from typing import Literal, Optional, TypedDict, TypeVar, cast

SCHEMA = "drgn-unaccepted/1"

Span = list[int]  #: ``[start, end]``, physical addresses in bytes.

State = Literal["unaccepted", "accepted", "unknown", "no-ram"]
SourceName = Literal["bitmap", "reconstructed", "page-lists", "counters", "none"]
Status = Literal["ok", "warning", "critical", "unknown"]

D = TypeVar("D")


def document(kind: type[D], source: object, /, **others: object) -> D:
    """A TypedDict of the attributes of ``source`` that have the names of its keys, and of others."""
    return cast(D, {name: others[name] if name in others else getattr(source, name) for name in kind.__annotations__})


class TargetDocument(TypedDict):
    kind: Literal["live", "remote", "vmcore", "snapshot", "log", "sos"]
    path: Optional[str]
    release: Optional[str]
    build_id: Optional[str]
    debug_info: str
    taken_at: str  #: When the target was read, ISO 8601 with its zone.
    debug_info_path: Optional[str]  #: The file given with ``-s`` that has the types.
    crashed_at: Optional[str]


class TableDocument(TypedDict):
    """``struct efi_unaccepted_memory``, as far as it was read."""

    state: Literal["present", "absent", "not-captured", "unsupported", "invalid"]
    reason: Optional[str]
    address: Optional[int]
    version: Optional[int]
    unit_size: Optional[int]
    phys_base: Optional[int]
    bitmap_bytes: Optional[int]
    read_through: Optional[str]  #: ``physical``, ``bpf`` or ``file``.
    #: Of a table that was saved earlier: whether it is of this boot; None where that is not known.
    same_boot: Optional[bool]


class Document(TypedDict):
    schema: str
    command: str
    target: TargetDocument
    table: TableDocument
    source: SourceName
    exact: bool
    source_reason: Optional[str]
    covered_bytes: Optional[int]
    unaccepted_bytes: Optional[int]
    nr_unaccepted_bytes: Optional[int]
    torn: list[str]
    unaccepted_bytes_min: Optional[int]
    unaccepted_bytes_max: Optional[int]
    initially_unaccepted_bytes: Optional[int]


class PlatformDocument(TypedDict):
    kind: Optional[str]
    cc_vendor: Optional[str]
    lazy: Optional[bool]


class Extent(TypedDict):
    start: int
    end: int


class TypedRange(Extent):
    type: int
    name: str


class SummaryAnswer(Document):
    panic: Optional[str]  #: The words after the last ``Kernel panic - not syncing: ``; empty: no panic.
    #: The accepts in flight when the kernel panicked because it could not accept memory.
    died_in_accept: list[AcceptDocument]
    ram_bytes: Optional[int]
    ranges: Optional[list[StateRange]]  #: The unaccepted and the undecided ranges, where they are few.
    #: Of the rules of ``check`` that need no scan of pages or tasks, by status; None for a live kernel.
    findings: Optional[dict[str, int]]
    covered: Optional[Span]
    unaccepted_runs: Optional[int]
    unaccepted_span: Optional[Span]
    listed_chunks: Optional[int]
    chunk_bytes: Optional[int]
    platform: Optional[PlatformDocument]
    in_flight: Optional[int]
    panic_task: Optional[TaskDocument]
    command_line: Optional[str]  #: Of a kernel log.
    missing: dict[str, str]


class HeaderFields(TypedDict):
    version: Optional[int]
    unit_size: Optional[int]
    phys_base: Optional[int]
    size: Optional[int]
    covered_end: Optional[int]
    units: Optional[int]
    set_bits: Optional[int]
    page_offset: Optional[int]


class HeaderAnswer(Document):
    header: HeaderFields


class StateRangeRequired(Extent):
    state: State


class StateRange(StateRangeRequired, total=False):
    reason: str


class RangesAnswer(Document):
    ranges: Optional[list[StateRange]]
    possible_guards: list[Span]  #: Units of listed chunks that may be accepted already, as guards.


class UnitDocument(Extent):
    index: int
    bit: Optional[int]


class AddressRequired(TypedDict):
    address: Optional[int]  #: None where a virtual address cannot be translated.
    state: State
    covered: Optional[bool]
    unit: Optional[UnitDocument]
    kernel_predicate: Optional[bool]
    efi: Optional[TypedRange]
    e820: Optional[TypedRange]
    node: Optional[int]
    zone: Optional[str]
    listed: Optional[bool]
    in_flight: Optional[bool]
    reason: str


class AddressDocument(AddressRequired, total=False):
    end: int  #: Of a range: the end of this piece of one state.
    query: Span  #: The range that was asked for.
    asked: str
    #: The kernel virtual address that was asked for, and the mapping through which it was translated.
    virtual: Optional[int]
    mapping: Optional[str]
    hint: Optional[str]


class ResolveAnswer(Document):
    addresses: Optional[list[AddressDocument]]  #: None with ``-f``: they follow, as JSON lines.
    missing: dict[str, str]


class DescriptorDocument(TypedRange):
    attribute: Optional[int]


class EfiAnswer(Document):
    provenance: Literal["boot-map", "kernel-log", "runtime-map", "none"]
    complete: bool
    note: Optional[str]
    descriptors: Optional[list[DescriptorDocument]]


class E820Tables(TypedDict):
    current: Optional[list[TypedRange]]
    kexec: Optional[list[TypedRange]]
    firmware: Optional[list[TypedRange]]
    boot_params: Optional[list[TypedRange]]


class E820Difference(Extent):
    firmware: Optional[str]  #: The type by name; None where the table has no entry.
    current: Optional[str]


class E820Answer(Document):
    tables: E820Tables
    missing: dict[str, str]
    differences: Optional[list[E820Difference]]


class WatermarksDocument(TypedDict):
    min: int
    low: int
    high: int
    promo: Optional[int]
    boost: int


class ZoneSpan(Extent):
    node: int
    name: str


class ZoneDocument(ZoneSpan):
    present_bytes: int
    managed_bytes: int
    free_bytes: int
    buddy_bytes: int
    unaccepted_bytes: Optional[int]
    listed_chunks: Optional[int]
    listed: Optional[list[Span]]
    list_problems: list[str]
    watermarks: WatermarksDocument
    locked: Optional[bool]


class ZonesAnswer(Document):
    missing: Optional[str]
    chunk_bytes: Optional[int]
    zones: Optional[list[ZoneDocument]]


class TaskDocument(TypedDict):
    pid: int
    comm: str
    cpu: Optional[int]


class AcceptDocument(TypedDict):
    start_unit: int
    end_unit: int
    start: Optional[int]
    end: Optional[int]
    entry: int  #: Virtual address of the ``struct accept_range``.
    task: Optional[TaskDocument]


class AcceptingAnswer(Document):
    missing: Optional[str]
    phys_base_from: Optional[str]
    problems: list[str]
    accepting: Optional[list[AcceptDocument]]


class FindingDocument(TypedDict):
    rule: str
    status: Literal["pass", "info", "warning", "critical", "skip"]
    message: str
    ranges: list[Span]
    needs: list[str]


class CheckAnswer(Document):
    platform: Optional[PlatformDocument]
    status: Status
    findings: list[FindingDocument]


class MapRow(TypedDict):
    """A row of bins: for each bin the units or bytes of one kind."""

    start: int
    unaccepted_units: list[int]
    unaccepted_bytes: list[int]
    ram_bytes: list[int]
    reserved_bytes: list[int]
    unknown_bytes: list[int]
    uncovered_bytes: list[int]
    guard_units: list[int]
    guard_bytes: list[int]


class MapGap(Extent):
    ram_bytes: int
    reserved_bytes: int


class MapTotals(TypedDict):
    units: int
    unaccepted_bytes: int
    ram_bytes: int
    reserved_bytes: int
    unknown_bytes: int
    uncovered_bytes: int


class Lanes(TypedDict):
    """The maps beside the bitmap, as segments of one value; None where one was not captured."""

    efi: Optional[list[TypedRange]]
    efi_provenance: Optional[str]
    efi_complete: Optional[bool]
    e820: Optional[list[TypedRange]]
    zones: Optional[list[ZoneSpan]]
    accepting: Optional[list[Span]]


class MapAnswer(Document):
    window: Optional[Span]
    unit_size: int
    unit_size_from: Literal["table", "x86"]
    covered: Optional[Span]
    memory_from: Optional[Literal["e820", "efi", "zones"]]
    bytes_per_bin: int
    units_per_bin: int
    bins_per_row: int
    rows: list[MapRow]
    left_out: list[MapGap]
    totals: MapTotals
    lanes: Lanes


class HistorySlice(TypedDict):
    elapsed_seconds: float
    samples: int
    source: SourceName
    unaccepted_bytes: Optional[int]
    rate_bytes_per_second: Optional[float]
    bins_unaccepted_bytes: Optional[list[Optional[int]]]


class HistoryAnswer(Document):
    samples: int
    elapsed_seconds: float
    unit_size: int
    bytes_per_bin: int
    units_per_bin: int
    bins: list[int]
    slices: list[HistorySlice]


class ZoneProgress(TypedDict):
    node: int
    name: str
    managed_bytes: int
    free_bytes: int
    unaccepted_bytes: Optional[int]
    listed_chunks: Optional[int]
    rate_bytes_per_second: Optional[float]


class ProgressAnswer(Document):
    """One sample of ``watch`` and ``replay``."""

    sample: int
    elapsed_seconds: float
    cost_seconds: float
    rate_bytes_per_second: Optional[float]
    rate_seconds: Optional[float]
    seconds_left: Optional[float]
    managed_bytes: Optional[int]
    zones: Optional[list[ZoneProgress]]
    missing: dict[str, str]
    accepting: Optional[list[AcceptDocument]]
    accepting_problems: list[str]


class ReportAnswer(Document):
    """What ``report`` prints; the page itself holds more."""

    file: str
    file_bytes: int
    status: Status


class SnapshotAnswer(Document):
    file: str
    missing: dict[str, str]
