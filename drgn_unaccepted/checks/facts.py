# SPDX-License-Identifier: LGPL-2.1-or-later
"""A snapshot as the rules see it: sorted, merged ranges out of each part, each computed once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.allocator import zone_name
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.truth import ACCEPTED, UNACCEPTED
from drgn_unaccepted.checks.rule import Finding, given
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.header import PRESENT, Header, judge_header
from drgn_unaccepted.model.ranges import Range, chunk_ranges, merge, subtract
from drgn_unaccepted.snapshot import E820Tables, Snapshot, Zone
from drgn_unaccepted.words import count

_TABLE_STATES = {
    "absent": "there is no table",
    "not-captured": "the table was not captured",
    "unsupported": "the table's version is unknown",
    "invalid": "the table's header is invalid",
}
_SAVED = "the bitmap comes from a file, and bits may have been cleared since it was saved"
_NO_COUNTER = "this kernel has no NR_UNACCEPTED (no CONFIG_UNACCEPTED_MEMORY)"
_NO_KEY = "this kernel has no zones_with_unaccepted_pages"


def merged(ranges: Iterable[tuple[int, int]]) -> list[Range]:
    """:func:`merge` for ranges from a target, without those that are empty or reversed."""
    return merge((start, end) for start, end in ranges if start < end)


def version(release: Optional[str]) -> Optional[tuple[int, ...]]:
    """``6.12.117+deb12-amd64`` as (6, 12, 117); None if the release is unknown or does not start with a version."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?!\d)", release or "")
    return tuple(int(part or 0) for part in match.groups()) if match else None


class Facts:
    """A snapshot and what follows from it.

    An attribute may raise or be empty where the snapshot lacks its part; a rule uses only what its needs cover.
    """

    def __init__(
        self, snapshot: Snapshot, finding_of: Callable[[str], Optional[Finding]], judgement: Optional[Judgement] = None
    ) -> None:
        table, efi_map, pages, accepting = snapshot.table, snapshot.efi_map, snapshot.pages, snapshot.accepting
        self.snapshot, self._finding_of = snapshot, finding_of
        self.live = snapshot.target.is_running or snapshot.target.kind == "sos"  #: It ran while it was read.
        release, banner = snapshot.target.release, snapshot.image.banner
        #: Whether the release is false, or the banner in the kernel's image is.
        self.false_release = None not in (release, banner) and release != banner
        self.release = "this kernel" if self.false_release else release or "a kernel of unknown release"
        self.version = None if self.false_release else version(release)
        #: The kernel is a distribution's: ``5.14.0-503.el9``.
        self.backports = (self.version or (7,)) < (6, 5, 0) or bool(re.match(r"\d+\.\d+\.0-\d", self.release))
        #: The fields of the header, if all were read; the table's state by them, and the reason.
        fields = (table.version, table.unit_size, table.phys_base, table.bitmap_bytes)
        self.header = None if None in fields else Header(*map(given, fields))
        self.judged = judge_header(self.header, table.address or 0) if self.header else ("", None)
        #: The range that the bitmap covers, if the header is valid.
        self.geometry = table.geometry if self.judged[0] == PRESENT and table.state != "absent" else None
        #: Whether there is a bitmap of the length that the header says. It may have been saved earlier.
        self.has_bits = self.geometry is not None and len(table.bitmap or b"") == self.geometry.bitmap_bytes
        if judgement is None:
            judgement = judge(snapshot if self.has_bits else replace(snapshot, table=replace(table, bitmap=None)))
        self.judgement, self.evidence = judgement, judgement.evidence
        #: The addresses under set bits, and whether the last ranges are left out, as there are too many.
        self.under_bits = self.evidence.set_bits[: limits.CHECKED_RANGES]
        self.bitmap_cut = len(self.evidence.set_bits) > limits.CHECKED_RANGES
        #: The EFI memory map, in map order, without empty entries, and its memory of type 15.
        self.descriptors = [d for d in efi_map.descriptors if d.start < d.end] if efi_map else []
        self.efi_unaccepted = merged((d.start, d.end) for d in self.descriptors if d.type == efi.UNACCEPTED)
        self.e820 = snapshot.e820 or E820Tables(None, None, None, None)
        self.platform = snapshot.platform.kind if snapshot.platform else None  #: ``tdx``, ``snp`` or ``none``.
        self.zones = snapshot.zones or ()
        self.listed_chunks = sum(len(zone.listed.pfns) for zone in self.zones if zone.listed)
        self.accepts = accepting.entries if accepting else ()
        #: The memory whose struct pages were read, and why that is not all; pages that were shown as zeros.
        self.scanned = merged(pages.scanned) if pages else []
        self.masked = chunk_ranges(1, pages.masked_pfns) if pages else []
        self.limited = f" ({pages.limited})" if pages and pages.limited else ""

    def lacking(self, *needs: str) -> list[str]:
        """The missing ones of ``needs`` as ``name: reason``; needs with the same reason share an entry."""
        by_reason: dict[str, list[str]] = {}
        for need in needs:
            reason = self._lacks[need] if need in self._lacks else self._no(need)
            if reason is not None:
                by_reason.setdefault(reason, []).append(need)
        return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]

    def _no(self, path: str, otherwise: str = "not in this snapshot") -> Optional[str]:
        """Why a part of the snapshot is missing, or a field of one, such as ``e820.firmware``."""
        part, _, field = path.partition(".")
        value, missing = getattr(self.snapshot, part), self.snapshot.missing
        if value is not None and (not field or getattr(value, field) is not None):
            return None
        return missing.get(path) or missing.get(part) or otherwise

    @cached_property
    def _lacks(self) -> dict[str, Optional[str]]:
        """Why what rules need is missing, where more than :meth:`_no` tells it."""
        table, zones, efi_map = self.snapshot.table, self.zones, self.snapshot.efi_map
        parts: dict[str, Any] = {"address": table.address, "header": self.header, "geometry": self.geometry}
        parts |= {"place": self.evidence.table_range, "bitmap": table.bitmap}
        # The full reason is in table-captured.
        state = _TABLE_STATES.get(table.state, f"the table is {table.state}")
        of_table = {f"table.{name}": state if part is None else None for name, part in parts.items()}
        layout = None if table.version == 1 else f"the layout of version {table.version} is unknown"
        bitmap = of_table.pop("table.bitmap") or of_table["table.geometry"]
        if bitmap is None and not self.has_bits:
            bitmap = f"{len(given(table.bitmap))} bytes of bitmap where the header says {self.covered.bitmap_bytes}"
        now = bitmap or (_SAVED if table.is_saved else None)
        cut = None if efi_map is None or efi_map.complete else f"({efi_map.note or efi_map.provenance})"
        no_zones = "no zone is populated" if self.snapshot.zones == () else self._no("zones") or self._no("kernel")
        lists = no_zones or self.evidence.lists_lack
        damaged = ((zone_name(zone), zone.listed.problems) for zone in zones if zone.listed and zone.listed.problems)
        whole = next((f"unaccepted_pages of {name} could not be followed: {why[0]}" for name, why in damaged), None)
        counted = _NO_COUNTER if any(zone.unaccepted_pages is None for zone in zones) else None
        counters = self._no("counters") or self._no("counters.unaccepted_pages", _NO_COUNTER)
        no_count = no_zones or counters or "NR_UNACCEPTED is more than all physical memory"
        is_counted = self.evidence.nr_unaccepted_bytes is not None or lists is None
        by_lists = self.judgement.name in ("reconstructed", "page-lists") and not self.judgement.by_bits

        def in_place(reason: Optional[str]) -> Optional[str]:
            if reason is None or table.state == "absent":
                return reason
            other = lists or self.evidence.lists_damaged or "nothing else says what is unaccepted"
            return None if by_lists and lists is None else f"{reason}; {other}"

        return {
            **of_table,
            "table.layout": of_table["table.header"] or layout,
            **{"bitmap": bitmap, "bitmap.now": now, "unaccepted": in_place(bitmap), "unaccepted.now": in_place(now)},
            "efi_map.complete": f"the map is incomplete {cut}" if cut else self._no("efi_map"),
            "e820": self._no("e820.firmware") and self._no("e820.current"),
            **{"zones": no_zones, "zones.listed": lists, "zones.listed.whole": lists or whole, "counters": counters},
            **{"zones.nr_unaccepted": no_zones or counted, "nr_unaccepted": None if is_counted else no_count},
            "kernel.static_key": self._no("kernel") or self._no("kernel.static_key", _NO_KEY),
        }

    def finding(self, rule: str, *statuses: str) -> Optional[Finding]:
        """The finding of another rule, if it has one of these statuses."""
        finding = self._finding_of(rule)
        return finding if finding is not None and finding.status in statuses else None

    def has_fix(self, fixed_by: str) -> Optional[bool]:
        """Whether the kernel has a fix: by what the fix left or took away, else by the version.

        None: unknown, also of a distribution's kernel, which carries fixes that its version does not show.

        :param fixed_by: of a rule: ``50e782a86c98 (6.6, 6.5.9)``, mainline first, then stable releases for their series
        """
        commits, _, releases = fixed_by.partition(" (")
        traces = [there for commit, there in self._traces.items() if commit in commits]
        if traces or not releases:
            return any(traces)
        if self.version is None or self.backports:
            return None
        mainline, *stable = (version(release) or () for release in releases.rstrip(")").split(", "))
        return self.version >= mainline or any(self.version[:2] == v[:2] and self.version >= v for v in stable)

    @cached_property
    def _traces(self) -> dict[str, bool]:
        """Fixes by commit, and whether they are in this kernel."""
        kernel, image = self.snapshot.kernel, self.snapshot.image
        found = dict.fromkeys(image.lacks, False) | dict.fromkeys(image.fixes, True)
        if kernel is not None and kernel.static_key is not None:
            found["fefc07518227"] = False
        if self.snapshot.accepting is not None:
            found["50e782a86c98"] = True
        is_short = self.finding("table-reserved", "warning", "critical") is not None
        return found | ({"0862438c9048": not is_short} if is_short or self.snapshot.table.unmapped == () else {})

    @property
    def booting(self) -> bool:
        """The page allocator does not have all its memory yet, or has none at all, as before memblock_free_all()."""
        kernel = self.snapshot.kernel
        memory = (zone.free_pages or zone.buddy_pages or (zone.listed and zone.listed.pfns) for zone in self.zones)
        return bool(kernel and kernel.is_booting) or (bool(self.zones) and not any(memory))

    @property
    def covered(self) -> Geometry:
        """:attr:`geometry` for rules that need it."""
        return given(self.geometry)

    @cached_property
    def by_lists(self) -> list[Range]:
        """Memory that is unaccepted by its lists and by what it was at boot, without units that may be guards.

        No page in use, and no memory of the kernel or of kexec, takes part in this.
        """
        if self.judgement.by_bits:
            return []
        pieces = self.judgement.pieces(0, limits.PHYSICAL_END)
        found = merge(piece.range for piece in pieces if piece.state == UNACCEPTED)
        return subtract(found, self.judgement.guards)

    @property
    def unaccepted(self) -> list[Range]:
        """The addresses under set bits, also of a table saved earlier; :attr:`by_lists` where there are no bits."""
        return self.under_bits if self.has_bits else self.by_lists

    @property
    def unaccepted_now(self) -> list[Range]:
        """:attr:`unaccepted`, but :attr:`by_lists` in place of bits that were saved earlier."""
        return self.by_lists if self.snapshot.table.is_saved else self.unaccepted

    @property
    def accepted_since_boot(self) -> Optional[int]:
        """Bytes that were unaccepted at boot and are proven to be accepted now; ``None`` if nothing tells."""
        initial = self.evidence.initial
        if isinstance(initial, str) or self.snapshot.table.state == "absent" or self.judgement.doubt is not None:
            return None
        found = (piece for start, end in initial.unaccepted for piece in self.judgement.pieces(start, end))
        return sum(piece.end - piece.start for piece in found if piece.state == ACCEPTED)

    @property
    def used_ram(self) -> Optional[list[Range]]:
        """RAM in ``e820_table``, or if that was not captured in ``e820_table_firmware``."""
        entries = self.e820.firmware if self.e820.current is None else self.e820.current
        return None if entries is None else e820_model.memory(entries)

    def chunks(self, pfns: Iterable[int]) -> list[Range]:
        """The memory of chunks with these first PFNs."""
        return chunk_ranges(given(self.snapshot.kernel).chunk_pages, pfns)

    def torn(self, *parts: str) -> Optional[str]:
        """How one of ``parts`` changed while it was read, or None."""
        return next((entry for entry in self.snapshot.torn if re.split(r"[:.]", entry)[0] in parts), None)

    def unsettled(self, zone: Optional[Zone] = None) -> Optional[str]:
        """Why lists and counters (of ``zone``) may have been between two states, or None if they were not."""
        zones = self.zones if zone is None else (zone,)
        held = {each.locked: f"zone->lock of {zone_name(each)} was held" for each in reversed(zones)}
        if held.get(True) or self.accepts:
            return held.get(True) or f"{count(len(self.accepts), 'accept')} in flight"
        if self.live:
            return self.torn("zones", "counters", "accepting")
        unknown = held.get(None) or ("an accept was in flight" if self.snapshot.accepting is None else None)
        return f"unknown whether {unknown}" if unknown else None
