# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules, how to write one, and their meaning in words.

A rule is a function in a module of its subject::

    @Rule(CRITICAL, ("bitmap", "pages"))
    def name_of_the_rule(facts: Facts) -> Outcome:
        '''The sentence that must hold.

        Why it must hold, with the kernel commit or the specification.
        Fix: what to do when it fails.
        '''

Its name is ``name-of-the-rule``. It runs only where everything that it needs was captured, and returns
:class:`Pass`, ``Skip``, or its ``Fault`` or several. A rule that looks for one known
kernel bug names the fix in ``fixed_by``, and its own name begins with ``advisory-``; it may build on the findings of
other rules (:meth:`Facts.finding`) and returns None where nothing points to the bug.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Optional, TypeVar, Union

from drgn_unaccepted.model.ranges import PAGE_SIZE, Range, total
from drgn_unaccepted.snapshot import Zone
from drgn_unaccepted.words import count, span, wrap

T = TypeVar("T")

#: The weight of a fault. ``critical``: it cannot be in a correct kernel. ``warning``: it should not be, but has rare
#: legal reasons, or is a hazard. ``info``: worth knowing.
Severity = Literal["info", "warning", "critical"]

INFO: Final = "info"
WARNING: Final = "warning"
CRITICAL: Final = "critical"


class Pass(NamedTuple):
    message: str


class Skip(NamedTuple):
    """The rule itself found that it cannot tell."""

    message: str


class Fault(NamedTuple):
    message: str
    ranges: Sequence[Range] = ()  #: Physical addresses at fault, sorted and merged.
    severity: Optional[Severity] = None  #: By default that of the rule.
    zone: Optional[Zone] = None  #: The zone whose lock guards the data at fault, if any.


Outcome = Union[Pass, Skip, Fault, Sequence[Fault], None]


class Finding(NamedTuple):
    rule: str  #: Its name.
    status: Literal["skip", "pass", "info", "warning", "critical"]
    message: str
    ranges: tuple[Range, ...] = ()  #: As of :class:`Fault`, at most :data:`limits.FINDING_RANGES`.
    needs: tuple[str, ...] = ()  #: What the rule needs; names of :data:`NEEDS`.


def some(parts: Sequence[T], write: Callable[[T], str] = str, separator: str = ", ") -> str:
    """The first three parts in full, the others as a number."""
    shown = separator.join(map(write, parts[:3]))
    return shown if len(parts) <= 3 else f"{shown} and {len(parts) - 3} more"


def spans(ranges: Sequence[Range]) -> str:
    return some(ranges, lambda range_: span(*range_))


def pages(ranges: Sequence[Range]) -> str:
    return count(total(ranges) // PAGE_SIZE, "page")


def given(part: Optional[T]) -> T:
    """A part that is there because the rule needs it."""
    assert part is not None
    return part


#: What rules need, by name, for --explain; :meth:`Facts.lacking` has the reasons for what is missing.
NEEDS = {
    "table.address": "`efi.unaccepted`, the table's physical address",
    "table.header": "the table's header",
    "table.layout": "the table's header, of version 1",
    "table.geometry": "a valid header",
    "table.place": "the table's address, and its size by the header or by the EFI memory map",
    "bitmap": "the bitmap",
    "bitmap.now": "the bitmap, read together with the rest and not from an older file",
    "unaccepted": "the bitmap, or the lists in its place",
    "unaccepted.now": "the bitmap, or the lists in its place, read together with the rest",
    "efi_map.complete": "the complete final EFI memory map",
    "efi_map": "the EFI memory map",
    "e820.firmware": "`e820_table_firmware`",
    "e820.current": "`e820_table`",
    "e820": "`e820_table` or `e820_table_firmware`",
    "zones": "the zones and their counters",
    "zones.listed": "`zone->unaccepted_pages`",
    "zones.listed.whole": "`zone->unaccepted_pages`, followed to its end",
    "zones.nr_unaccepted": "`zone->vm_stat[NR_UNACCEPTED]`",
    "nr_unaccepted": "the lists, or `NR_UNACCEPTED`",
    "counters": "`vm_zone_stat[NR_UNACCEPTED]`",
    "accepting": "`accepting_list`",
    "image.banner": "the banner in the kernel's image",
    "platform.kind": "whether the guest is TDX or SNP",
    "platform.lazy": "`lazy_accept`",
    "kernel_memory": "the memory that the kernel itself uses",
    "kernel.static_key": "the static key `zones_with_unaccepted_pages`",
    "pages": "the states of the struct pages",
    "kexec_segments": "the segments of loaded kexec images",
    "reclaiming": "the tasks in direct reclaim",
}


BOOTING = "the kernel was booting, and its page allocator did not have all its memory yet"

Function = Callable[[Any], Outcome]  #: It gets the :class:`~drgn_unaccepted.checks.facts.Facts`.


@dataclass
class Rule:
    """The decorator of a rule, and all that is known of it."""

    severity: Severity  #: In a vmcore.
    needs: tuple[str, ...] = ()  #: Names of :data:`NEEDS`; without one of these the rule is skipped.
    number: Optional[int] = None  #: Place in the interface's table (C1 to C32).
    nuance: str = ""  #: Where a fault has another severity.
    #: The data changes under ``zone->lock``: the severity holds only in a vmcore where the lock was free and no accept
    #: was in flight; else a fault is a warning there. On a live kernel it is a warning, or info if the zone is known to
    #: have been changing.
    settled: bool = False
    confirmed: Optional[Severity] = None  #: Severity on a live kernel where two samples agree, if another.
    fixed_by: str = ""  #: For a known kernel bug: the commit of the fix and the releases that have it.
    name: str = field(init=False)
    function: Function = field(init=False)

    def __call__(self, function: Function) -> Function:
        self.name = ("advisory-" if self.fixed_by else "") + function.__name__.replace("_", "-")
        self.function = function
        RULES[self.name] = self
        return function

    @property
    def live(self) -> Severity:
        """Severity on a live kernel."""
        return WARNING if self.settled else self.severity

    @property
    def texts(self) -> list[str]:
        """The sentence that must hold, the reason, and what to do when it fails; Python -OO drops them."""
        parts = re.split(r"\n\n|\n +Fix:", self.function.__doc__ or "\n\n\n Fix:")
        return [" ".join(part.split()) for part in parts]

    def details(self) -> list[tuple[str, str]]:
        """The other parts of the explanation, each with its title."""
        fix = ("What to do", self.texts[2])
        if self.fixed_by:
            return [("Fixed by", self.fixed_by), fix]
        needs = "; ".join(NEEDS[need] for need in self.needs)
        return [("When it fails", self._severities()), ("Needs", needs or "nothing"), fix]

    def _severities(self) -> str:
        text = f"{self.severity} in a vmcore, {self.live} on a live kernel" if self.settled else self.severity
        if self.confirmed:
            text += f" ({self.confirmed} if two samples agree)"
        if self.settled:
            text += "; warning in a vmcore and info on a live kernel if zone->lock was held or an accept was in flight"
        return f"{text}; {self.nuance}." if self.nuance else f"{text}."


RULES: dict[str, Rule] = {}  #: All rules by name.


def rules() -> list[Rule]:
    """All rules: C1 to C32, those without a number, and the known bugs."""
    return sorted(RULES.values(), key=lambda rule: (bool(rule.fixed_by), rule.number or len(RULES)))


def rule_names() -> list[str]:
    return [rule.name for rule in rules()]


def explain(name: str) -> str:
    """What a rule says, why, and what to do when it fails, in paragraphs. ValueError: there is none of this name."""
    if name not in RULES:
        raise ValueError(f"no such rule: {name}")
    rule = RULES[name]
    says, why, _ = rule.texts
    parts = [rule.name + (f" (C{rule.number})" if rule.number else ""), says, f"Why: {why}"]
    parts += [f"{title}: {text}" for title, text in rule.details()]
    return "\n\n".join("\n".join(wrap(part)) for part in parts) + "\n"
