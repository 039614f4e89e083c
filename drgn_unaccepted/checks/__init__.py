# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules that hold the parts of a snapshot against each other.

One rule is one function, in a module by subject: the table's header, its place, the memory maps, the pages, the page
allocator's lists and counters, what was going on. Importing this package registers them all.
"""

from __future__ import annotations

from drgn_unaccepted.checks import advisories, header, lists, maps, pages, placement, runtime  # noqa: F401
from drgn_unaccepted.checks.engine import EXIT_STATUS, Finding, Report, confirm, run_checks
from drgn_unaccepted.checks.explain import explain, rule_names

__all__ = ["EXIT_STATUS", "Finding", "Report", "confirm", "explain", "rule_names", "run_checks"]
