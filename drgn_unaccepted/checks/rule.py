# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules, and how to write one.

A rule is a function in a module of its subject::

    @rule("name-of-the-rule", CRITICAL, needs=("bitmap", "pages"))
    def name_of_the_rule(facts: Facts) -> Outcome:
        '''The sentence that must hold.

        Why it must hold, with the kernel commit or the specification.

        Fix: what to do when it fails.
        '''

It runs only where everything that it needs was captured, and returns :class:`Pass`, :class:`Skip`, or its
:class:`Fault` or several. A rule that looks for one known kernel bug names the fix in ``fixed_by``; it may build on the
findings of other rules (:meth:`Facts.finding`) and returns None where nothing points to the bug.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional, Union

from drgn_unaccepted.checks.facts import Facts
from drgn_unaccepted.checks.finding import WARNING, Severity
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Zone


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
Function = Callable[[Facts], Outcome]


@dataclass(frozen=True)
class Rule:
    name: str
    function: Function
    #: The sentence that must hold, the reason, and what to do when it fails: the paragraphs of the docstring.
    says: str
    why: str
    fix: str
    #: Severity in a vmcore.
    vmcore: Severity
    #: Severity on a live kernel, and where two samples of it agree.
    live: Severity
    confirmed: Severity
    #: Names of :data:`drgn_unaccepted.checks.needs.NEEDS`; without one of these the rule is skipped.
    needs: tuple[str, ...]
    #: Its data changes under ``zone->lock``. See :func:`rule`.
    settled: bool
    #: Where a fault has another severity.
    nuance: str
    #: Place in the interface's table (C1 to C32).
    number: Optional[int]
    #: For a known kernel bug: the commit of the fix and the releases that have it.
    fixed_by: str


#: All rules by name, filled by :func:`rule`.
RULES: dict[str, Rule] = {}


def rule(
    name: str,
    severity: Severity,
    *,
    needs: tuple[str, ...] = (),
    settled: bool = False,
    confirmed: Optional[Severity] = None,
    nuance: str = "",
    number: Optional[int] = None,
    fixed_by: str = "",
) -> Callable[[Function], Function]:
    """Register the function below as a rule.

    :param settled: the data changes under ``zone->lock``: the severity holds only in a vmcore where the lock was free
        and no accept was in flight, else a fault is a warning there. On a live kernel it is a warning, and info where
        the zone is known to have been changing.
    :param confirmed: severity on a live kernel where two samples agree; by default that of one sample
    """

    def register(function: Function) -> Function:
        # Python -OO drops docstrings; the rule works without its texts.
        paragraphs = (function.__doc__ or "\n\n\n\nFix:").split("\n\n")
        says, why, fix = (" ".join(paragraph.split()) for paragraph in paragraphs)
        live: Severity = WARNING if settled else severity
        RULES[name] = Rule(
            name=name,
            function=function,
            says=says,
            why=why,
            fix=fix.removeprefix("Fix:").lstrip(),
            vmcore=severity,
            live=live,
            confirmed=confirmed or live,
            needs=needs,
            settled=settled,
            nuance=nuance,
            number=number,
            fixed_by=fixed_by,
        )
        return function

    return register


def rules() -> list[Rule]:
    """All rules: C1 to C32, those without a number, and the known bugs."""
    return sorted(RULES.values(), key=lambda rule: (bool(rule.fixed_by), rule.number or len(RULES)))


def rule_names() -> list[str]:
    return [rule.name for rule in rules()]
