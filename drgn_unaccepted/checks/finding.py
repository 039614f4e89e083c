# SPDX-License-Identifier: LGPL-2.1-or-later
"""The answer of one rule, and how its message lists things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.words import span

Status = Literal["skip", "pass", "info", "warning", "critical"]
#: The weight of a fault. ``critical``: it cannot be in a correct kernel. ``warning``: it should not be, but has rare
#: legal reasons, or is a hazard. ``info``: worth knowing.
Severity = Literal["info", "warning", "critical"]

SKIP: Final = "skip"
PASS: Final = "pass"
INFO: Final = "info"
WARNING: Final = "warning"
CRITICAL: Final = "critical"
#: From best to worst.
STATUSES: tuple[Status, ...] = (SKIP, PASS, INFO, WARNING, CRITICAL)

#: Ranges and other parts that a message spells out; it counts the rest.
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    #: Name of the rule.
    rule: str
    status: Status
    message: str
    #: Physical addresses at fault, sorted and merged, at most :data:`limits.FINDING_RANGES`.
    ranges: tuple[Range, ...] = ()
    #: What the rule needs; names of :data:`drgn_unaccepted.checks.needs.NEEDS`.
    needs: tuple[str, ...] = ()


def some(parts: Iterable[str], number: int, separator: str = ", ") -> str:
    """The first of ``number`` parts, and how many more there are."""
    shown = list(parts)[:SHOWN]
    text = separator.join(shown)
    return text if len(shown) >= number else f"{text} and {number - len(shown)} more"


def spans(ranges: Sequence[Range]) -> str:
    """The first ranges in full, the others as a number."""
    return some([span(*range_) for range_ in ranges[:SHOWN]], len(ranges))
