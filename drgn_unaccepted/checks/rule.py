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
:class:`~drgn_unaccepted.checks.finding.Pass`, ``Skip``, or its ``Fault`` or several. A rule that looks for one known
kernel bug names the fix in ``fixed_by``, and its own name begins with ``advisory-``; it may build on the findings of
other rules (:meth:`Facts.finding`) and returns None where nothing points to the bug.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Optional

from drgn_unaccepted.checks.facts import Facts
from drgn_unaccepted.checks.finding import WARNING, Outcome, Severity
from drgn_unaccepted.checks.needs import NEEDS
from drgn_unaccepted.words import wrap

Function = Callable[[Facts], Outcome]


@dataclass
class Rule:
    """The decorator of a rule, and all that is known of it."""

    #: Severity in a vmcore.
    severity: Severity
    #: Names of :data:`drgn_unaccepted.checks.needs.NEEDS`; without one of these the rule is skipped.
    needs: tuple[str, ...] = ()
    #: Place in the interface's table (C1 to C32).
    number: Optional[int] = None
    #: The data changes under ``zone->lock``: the severity holds only in a vmcore where the lock was free and no accept
    #: was in flight; else a fault is a warning there. On a live kernel it is a warning, or info if the zone is known to
    #: have been changing.
    settled: bool = False
    #: Severity on a live kernel where two samples agree; by default that of one sample.
    confirmed: Optional[Severity] = None
    #: Where a fault has another severity.
    nuance: str = ""
    #: For a known kernel bug: the commit of the fix and the releases that have it.
    fixed_by: str = ""
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
        paragraphs = (self.function.__doc__ or "\n\n\n\nFix:").split("\n\n")
        return [" ".join(paragraph.split()).removeprefix("Fix:").lstrip() for paragraph in paragraphs]

    def details(self) -> list[tuple[str, str]]:
        """The other parts of the explanation, each with its title."""
        fix = ("What to do", self.texts[2])
        if self.fixed_by:
            return [("Fixed by", self.fixed_by), fix]
        needs = "; ".join(NEEDS[need].what for need in self.needs)
        return [("When it fails", self._severities()), ("Needs", needs or "nothing"), fix]

    def _severities(self) -> str:
        text = f"{self.severity} in a vmcore, {self.live} on a live kernel" if self.settled else self.severity
        if self.confirmed:
            text += f" ({self.confirmed} if two samples agree)"
        if self.settled:
            text += "; warning in a vmcore and info on a live kernel if zone->lock was held or an accept was in flight"
        return f"{text}; {self.nuance}." if self.nuance else f"{text}."


#: All rules by name.
RULES: dict[str, Rule] = {}


def rules() -> list[Rule]:
    """All rules: C1 to C32, those without a number, and the known bugs."""
    return sorted(RULES.values(), key=lambda rule: (bool(rule.fixed_by), rule.number or len(RULES)))


def rule_names() -> list[str]:
    return [rule.name for rule in rules()]


def explain(name: str) -> str:
    """What the rule ``name`` says, why, and what to do when it fails; paragraphs of text.

    :raises ValueError: there is none of this name
    """
    if name not in RULES:
        raise ValueError(f"no such rule: {name}")
    rule = RULES[name]
    says, why, _ = rule.texts
    parts = [rule.name + (f" (C{rule.number})" if rule.number else ""), says, f"Why: {why}"]
    parts += [f"{title}: {text}" for title, text in rule.details()]
    return "\n\n".join("\n".join(wrap(part)) for part in parts) + "\n"
