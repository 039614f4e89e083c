# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parts of a snapshot as documents: the EFI memory map, the e820 tables, the zones, the accepts in flight."""

from __future__ import annotations

from typing import Optional, cast

from drgn_unaccepted.answer import documents as doc
from drgn_unaccepted.answer.allocator import amounts
from drgn_unaccepted.answer.documents import document
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model.ranges import chunk_ranges
from drgn_unaccepted.snapshot import PAGE_SIZE, Accept, Snapshot, Zone
from drgn_unaccepted.words import count, safe, span


def efi(snapshot: Snapshot, judgement: Judgement) -> doc.EfiAnswer:
    """The EFI memory map in map order, with its provenance; ``none`` and null where it was not captured."""
    shared, efi_map = head(snapshot, judgement, "efi"), snapshot.efi_map
    if efi_map is None:
        note = snapshot.missing.get("efi_map")
        return {**shared, "provenance": "none", "complete": False, "note": note, "descriptors": None}
    descriptors = [document(doc.DescriptorDocument, descriptor) for descriptor in efi_map.descriptors]
    return document(doc.EfiAnswer, efi_map, **shared, descriptors=descriptors)


def e820(snapshot: Snapshot, judgement: Judgement) -> doc.E820Answer:
    """The e820 tables, null where one was not captured. ``differences`` compares current with firmware."""
    tables = {name: getattr(snapshot.e820, name, None) for name in doc.E820Tables.__annotations__}
    whole = snapshot.missing.get("e820", "not captured")
    differences: Optional[list[doc.E820Difference]] = None
    if tables["current"] is not None and tables["firmware"] is not None:
        differences = []
        for one in e820_model.differences(tables["firmware"], tables["current"]):
            old, new = (None if each is None else e820_model.type_name(each) for each in (one.a, one.b))
            differences.append({"start": one.range.start, "end": one.range.end, "firmware": old, "current": new})
    missing = {name: snapshot.missing.get(f"e820.{name}", whole) for name, found in tables.items() if found is None}
    documents = {name: found and [document(doc.TypedRange, each) for each in found] for name, found in tables.items()}
    shared = head(snapshot, judgement, "e820")
    return {**shared, "tables": cast(doc.E820Tables, documents), "missing": missing, "differences": differences}


def zones(snapshot: Snapshot, judgement: Judgement) -> doc.ZonesAnswer:
    """Populated zones in bytes, with the listed chunks merged into ranges; null where they were not captured."""
    shared, captured, kernel = head(snapshot, judgement, "zones"), snapshot.zones or (), snapshot.kernel
    chunk = kernel.chunk_pages if captured and kernel is not None else 0
    found, nbytes = [_zone(zone, chunk) for zone in captured] or None, chunk * PAGE_SIZE or None
    return {**shared, "missing": judgement.evidence.no_zones, "chunk_bytes": nbytes, "zones": found}


def _zone(zone: Zone, chunk_pages: int) -> doc.ZoneDocument:
    listed = zone.listed
    return document(
        doc.ZoneDocument,
        zone,
        **amounts(zone),
        start=zone.start_pfn * PAGE_SIZE,
        end=(zone.start_pfn + zone.spanned_pages) * PAGE_SIZE,
        listed=None if listed is None else [*map(list, chunk_ranges(chunk_pages, listed.pfns))],
        list_problems=[] if listed is None else list(listed.problems),
        watermarks={name: pages and pages * PAGE_SIZE for name, pages in vars(zone.watermarks).items()},
    )


def accept_document(entry: Accept, base: Optional[tuple[int, int]]) -> doc.AcceptDocument:
    units = (entry.start_unit, entry.end_unit)
    start, end = (None, None) if base is None else (base[0] + unit * base[1] for unit in units)
    task = None if entry.task is None else document(doc.TaskDocument, entry.task)
    return document(doc.AcceptDocument, entry, start=start, end=end, entry=entry.address, task=task)


def where(entry: doc.AcceptDocument) -> str:
    """The memory of an accept: its addresses where they are known, and its units by number."""
    first, end = entry["start_unit"], entry["end_unit"]
    units = f"{count(end - first, 'unit')} from unit {first}" if first < end else f"no unit, {first} to {end}"
    if entry["start"] is None or entry["end"] is None or first >= end:
        return units
    return f"{span(entry['start'], entry['end'])} ({units})"


def who(entry: doc.AcceptDocument) -> str:
    """The task of an accept, as the kernel's log names tasks."""
    task = entry["task"]
    if task is None:
        return "on no task's stack"
    return f"{safe(task['comm'])} (pid {task['pid']}), CPU {'unknown' if task['cpu'] is None else task['cpu']}"


def died_in(snapshot: Snapshot) -> list[doc.AcceptDocument]:
    """The accepts in flight when the kernel panicked because it could not accept memory."""
    if snapshot.accepting is None or "accept memory" not in (snapshot.panic or ""):
        return []
    base, _ = snapshot.unit_base()
    return [accept_document(entry, base) for entry in snapshot.accepting.entries]


def accepting(snapshot: Snapshot, judgement: Judgement) -> doc.AcceptingAnswer:
    """Each entry of accepting_list with its range and the task on whose stack it lies."""
    captured, (base, provenance) = snapshot.accepting, snapshot.unit_base()
    return {
        **head(snapshot, judgement, "accepting"),
        "missing": snapshot.missing.get("accepting"),
        "phys_base_from": None if captured is None else provenance,
        "problems": [] if captured is None else list(captured.problems),
        "accepting": None if captured is None else [accept_document(entry, base) for entry in captured.entries],
    }
