# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules that compare the parts of a snapshot with each other; importing this package registers all of them."""

from __future__ import annotations

from drgn_unaccepted.checks import known_bugs, lists, maps, pages, runtime, table  # noqa: F401
from drgn_unaccepted.checks.engine import Report, confirm, run_checks
from drgn_unaccepted.checks.rule import Finding, explain, rule_names

__all__ = ["Finding", "Report", "confirm", "explain", "rule_names", "run_checks"]
