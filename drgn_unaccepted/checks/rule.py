# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a rule is, what it says, and the register of all rules.

A rule is a function of :class:`~drgn_unaccepted.checks.facts.Facts` that returns :class:`Pass`, :class:`Skip`, or
what is wrong: one :class:`Fault` or several. It is called only where all that it needs was captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Zone

if TYPE_CHECKING:
    from drgn_unaccepted.checks.facts import Facts

#: How much a fault weighs. ``hard``: it cannot be in a correct kernel. ``soft``: it should not be, but has rare
#: legal reasons, or is a hazard. ``info``: worth knowing.
HARD, SOFT, INFO = "hard", "soft", "info"

#: Statuses of a finding, from best to worst.
SKIP, PASS, NOTE, WARNING, CRITICAL = "skip", "pass", "info", "warning", "critical"

STATUS_OF = {HARD: CRITICAL, SOFT: WARNING, INFO: NOTE}


class Pass(NamedTuple):
    message: str


class Skip(NamedTuple):
    """The rule found out by itself that it cannot tell."""

    message: str


class Fault(NamedTuple):
    message: str
    #: Physical addresses that it is about, sorted and merged.
    ranges: Sequence[Range] = ()
    #: Where it differs from the rule's own severity.
    severity: Optional[str] = None
    #: The zone whose lock guards what is wrong, where there is one.
    zone: Optional[Zone] = None


Outcome = Union[Pass, Skip, Fault, Sequence[Fault]]


@dataclass(frozen=True)
class Rule:
    #: Place in the interface's table (C1 to C32).
    number: int
    name: str
    #: Module that it stands in.
    family: str
    #: The sentence that must hold.
    says: str
    #: What it means, and the kernel commit or specification behind it.
    why: str
    #: What to do when it fails.
    mend: str
    #: Parts of the snapshot without which it is skipped; names of :data:`drgn_unaccepted.checks.needs.NEEDS`.
    needs: tuple[str, ...]
    #: Severity on a live kernel and in a vmcore.
    live: str
    vmcore: str
    #: What it compares changes under ``zone->lock``: in a vmcore it is hard only where the lock is free and no accept
    #: is in flight, else soft; on a live kernel soft, and info where the zone is known to have been changing.
    settled: bool
    #: Severity on a live kernel where two samples agree.
    live_stable: str
    #: Where a fault weighs more or less than that.
    nuance: str
    function: Callable[[Facts], Outcome]

    @property
    def code(self) -> str:
        return f"C{self.number}"


#: All rules by name. Filled by importing the modules of the families; ``drgn_unaccepted.checks`` does that.
RULES: dict[str, Rule] = {}


def rule(
    number: int,
    name: str,
    *,
    says: str,
    needs: Sequence[str],
    live: str,
    vmcore: str,
    why: str,
    mend: str,
    settled: bool = False,
    live_stable: Optional[str] = None,
    nuance: str = "",
) -> Callable[[Callable[[Facts], Outcome]], Callable[[Facts], Outcome]]:
    """Register the function below as a rule."""

    def register(function: Callable[[Facts], Outcome]) -> Callable[[Facts], Outcome]:
        RULES[name] = Rule(
            number=number,
            name=name,
            family=function.__module__.rpartition(".")[2],
            says=says,
            why=why,
            mend=mend,
            needs=tuple(needs),
            live=live,
            vmcore=vmcore,
            settled=settled,
            live_stable=live_stable or live,
            nuance=nuance,
            function=function,
        )
        return function

    return register
