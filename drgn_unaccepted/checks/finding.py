# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a rule returns, the finding that comes of it, and how messages list things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Optional, TypeVar, Union

from drgn_unaccepted.model.bitmap import PAGE_SIZE
from drgn_unaccepted.model.ranges import Range, total
from drgn_unaccepted.snapshot import Zone
from drgn_unaccepted.words import count, span

T = TypeVar("T")

#: The weight of a fault. ``critical``: it cannot be in a correct kernel. ``warning``: it should not be, but has rare
#: legal reasons, or is a hazard. ``info``: worth knowing.
Severity = Literal["info", "warning", "critical"]

INFO: Final = "info"
WARNING: Final = "warning"
CRITICAL: Final = "critical"

#: Ranges and other parts that a message spells out; it counts the rest.
SHOWN = 3


class Pass(NamedTuple):
    message: str


class Skip(NamedTuple):
    """The rule itself found that it cannot tell."""

    message: str


class Fault(NamedTuple):
    message: str
    #: Physical addresses at fault, sorted and merged.
    ranges: Sequence[Range] = ()
    #: By default the severity of the rule.
    severity: Optional[Severity] = None
    #: The zone whose lock guards the data at fault, if any.
    zone: Optional[Zone] = None


Outcome = Union[Pass, Skip, Fault, Sequence[Fault], None]


@dataclass(frozen=True)
class Finding:
    #: Name of the rule.
    rule: str
    status: Literal["skip", "pass", "info", "warning", "critical"]
    message: str
    #: Physical addresses at fault, sorted and merged, at most :data:`limits.FINDING_RANGES`.
    ranges: tuple[Range, ...] = ()
    #: What the rule needs; names of :data:`drgn_unaccepted.checks.needs.NEEDS`.
    needs: tuple[str, ...] = ()


def some(parts: Sequence[T], write: Callable[[T], str] = str, separator: str = ", ") -> str:
    """The first parts in full, the others as a number."""
    shown = separator.join(map(write, parts[:SHOWN]))
    return shown if len(parts) <= SHOWN else f"{shown} and {len(parts) - SHOWN} more"


def spans(ranges: Sequence[Range]) -> str:
    return some(ranges, lambda range_: span(*range_))


def pages(ranges: Sequence[Range]) -> str:
    return count(total(ranges) // PAGE_SIZE, "page")


def given(part: Optional[T]) -> T:
    """A part that is there because the rule needs it."""
    assert part is not None
    return part
