# SPDX-License-Identifier: LGPL-2.1-or-later
"""The EFI memory map, the e820 tables and the zones as documents."""

from __future__ import annotations

from typing import Optional, cast

from drgn_unaccepted.answer import documents as doc
from drgn_unaccepted.answer.allocator import amounts
from drgn_unaccepted.answer.documents import document
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model.ranges import chunk_ranges
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot, Zone


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
