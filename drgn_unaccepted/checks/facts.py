# SPDX-License-Identifier: LGPL-2.1-or-later
"""A snapshot as the rules see it: sorted, merged ranges out of each part, each computed once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.allocator import zone_name
from drgn_unaccepted.answer.judgement import Judgement, judge
from drgn_unaccepted.answer.truth import ACCEPTED, UNACCEPTED
from drgn_unaccepted.checks.finding import Finding, given
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.header import PRESENT, Header, judge_header
from drgn_unaccepted.model.ranges import Range, chunk_ranges, merge, subtract
from drgn_unaccepted.snapshot import E820Tables, Snapshot, Zone
from drgn_unaccepted.words import count

Version = tuple[int, ...]


def merged(ranges: Iterable[tuple[int, int]]) -> list[Range]:
    """:func:`merge` for ranges from a target, without those that are empty or reversed."""
    return merge((start, end) for start, end in ranges if start < end)


def version(release: Optional[str]) -> Optional[Version]:
    """``6.12.117+deb12-amd64`` as (6, 12, 117); None if the release is unknown or does not start with a version."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?!\d)", release or "")
    return tuple(int(part or 0) for part in match.groups()) if match else None


class Facts:
    """A snapshot and what follows from it.

    An attribute may raise or be empty where the snapshot lacks its part; a rule uses only what its needs cover.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        finding_of: Callable[[str], Optional[Finding]],
        judgement: Optional[Judgement] = None,
    ) -> None:
        table, efi_map, pages, accepting = snapshot.table, snapshot.efi_map, snapshot.pages, snapshot.accepting
        self.snapshot = snapshot
        self._finding_of = finding_of
        #: Whether the kernel ran while it was read.
        self.live = snapshot.target.is_running or snapshot.target.kind == "sos"
        release, banner = snapshot.target.release, snapshot.image.banner
        #: Whether the release is false, or the banner in the kernel's image is.
        self.false_release = None not in (release, banner) and release != banner
        self.release = "this kernel" if self.false_release else release or "a kernel of unknown release"
        self.version = None if self.false_release else version(release)
        #: The fields of the header, if all were read; the table's state by them, and the reason.
        fields = (table.version, table.unit_size, table.phys_base, table.bitmap_bytes)
        self.header = None if None in fields else Header(*map(given, fields))
        self.judged = judge_header(self.header, table.address or 0) if self.header else ("", None)
        #: The range that the bitmap covers, if the header is valid.
        self.geometry: Optional[Geometry] = None
        if self.header is not None and self.judged[0] == PRESENT and table.state in ("present", "not-captured"):
            self.geometry = self.header.geometry
        #: Whether there is a bitmap of the length that the header says. It may have been saved earlier.
        self.has_bits = self.geometry is not None and len(table.bitmap or b"") == self.geometry.bitmap_bytes
        if judgement is None:
            judgement = judge(snapshot if self.has_bits else replace(snapshot, table=replace(table, bitmap=None)))
        #: What all the evidence says of memory.
        self.judgement = judgement
        self.evidence = judgement.evidence
        #: The EFI memory map, in map order, without empty entries.
        self.descriptors = [d for d in efi_map.descriptors if d.start < d.end] if efi_map else []
        #: EFI memory of type 15.
        self.efi_unaccepted = merged((d.start, d.end) for d in self.descriptors if d.type == efi.UNACCEPTED)
        self.e820 = snapshot.e820 or E820Tables(None, None, None, None)
        #: ``tdx``, ``snp`` or ``none``.
        self.platform = snapshot.platform.kind if snapshot.platform else None
        self.zones = snapshot.zones or ()
        self.accepts = accepting.entries if accepting else ()
        #: The memory whose struct pages were read, and why that is not all.
        self.scanned = merged(pages.scanned) if pages else []
        self.limited = f" ({pages.limited})" if pages and pages.limited else ""

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
        if self.finding("table-reserved", "warning", "critical"):
            found["0862438c9048"] = False
        elif self.snapshot.table.unmapped == ():
            found["0862438c9048"] = True
        return found

    @property
    def backports(self) -> bool:
        """The kernel is a distribution's: ``5.14.0-503.el9``."""
        before = self.version is not None and self.version < (6, 5, 0)
        return before or re.match(r"\d+\.\d+\.0-\d", self.release) is not None

    @property
    def booting(self) -> bool:
        """The page allocator does not have all its memory yet.

        Where ``system_state`` is unknown: it has no memory at all, as before memblock_free_all().
        """
        kernel = self.snapshot.kernel
        if kernel is not None and kernel.is_booting:
            return True
        return bool(self.zones) and not any(
            zone.free_pages or zone.buddy_pages or (zone.listed and zone.listed.pfns) for zone in self.zones
        )

    @property
    def covered(self) -> Geometry:
        """:attr:`geometry` for rules that need it."""
        return given(self.geometry)

    @cached_property
    def under_bits(self) -> list[Range]:
        """The addresses under set bits."""
        return self.evidence.set_bits[: limits.CHECKED_RANGES]

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
    def bitmap_cut(self) -> bool:
        """:attr:`under_bits` lacks the last ranges of the bitmap, which has too many."""
        return len(self.evidence.set_bits) > limits.CHECKED_RANGES

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

    @cached_property
    def listed_pfns(self) -> list[int]:
        """First PFNs of all listed chunks, ascending."""
        return sorted(chain.from_iterable(zone.listed.pfns for zone in self.zones if zone.listed is not None))

    def torn(self, *parts: str) -> Optional[str]:
        """How one of ``parts`` changed while it was read, or None."""
        return next((entry for entry in self.snapshot.torn if re.split(r"[:.]", entry)[0] in parts), None)

    def unsettled(self, zone: Optional[Zone] = None) -> Optional[str]:
        """Why lists and counters (of ``zone``) may have been between two states, or None if they were not."""
        zones = self.zones if zone is None else (zone,)
        for each in zones:
            if each.locked:
                return f"zone->lock of {zone_name(each)} was held"
        if self.accepts:
            return f"{count(len(self.accepts), 'accept')} in flight"
        if self.live:
            return self.torn("zones", "counters", "accepting")
        for each in zones:
            if each.locked is None:
                return f"unknown whether zone->lock of {zone_name(each)} was held"
        return "unknown whether an accept was in flight" if self.snapshot.accepting is None else None
