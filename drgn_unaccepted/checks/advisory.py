# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an advisory is: a known kernel bug that the evidence in a snapshot points to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from drgn_unaccepted.checks.rule import Fault

if TYPE_CHECKING:
    from drgn_unaccepted.checks.engine import Finding
    from drgn_unaccepted.checks.facts import Facts

    #: Looks at the facts and, through the function given, at what a rule found.
    Judge = Callable[[Facts, Callable[[str], Finding]], Optional[Fault]]

Version = tuple[int, ...]


@dataclass(frozen=True)
class Advisory:
    name: str
    #: What the bug is.
    says: str
    why: str
    mend: str
    #: Commit and the releases that have it.
    fixed_by: str
    function: Judge


ADVISORIES: dict[str, Advisory] = {}


def advisory(slug: str, *, says: str, why: str, mend: str, fixed_by: str) -> Callable[[Judge], Judge]:
    """Register the function below as the advisory ``advisory-SLUG``."""

    def register(function: Judge) -> Judge:
        name = f"advisory-{slug}"
        ADVISORIES[name] = Advisory(name, says, why, mend, fixed_by, function)
        return function

    return register


def version(release: Optional[str]) -> Optional[Version]:
    """``6.12.117+deb12-amd64`` as (6, 12, 117); None where the release is not known or is no such number."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?!\d)", release or "")
    return tuple(int(part or 0) for part in match.groups()) if match else None


def has_fix(release: Optional[str], mainline: Version, stable: Sequence[Version] = ()) -> bool:
    """Whether a kernel of this release has a fix by its number alone.

    A distribution may have backported it to another number, so False means "likely not".

    :param mainline: first release with the fix
    :param stable: first stable releases with it, each for its own series
    """
    this = version(release)
    if this is None:
        return False
    return this >= mainline or any(this[:2] == fixed[:2] and this >= fixed for fixed in stable)
