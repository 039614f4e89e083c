# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers as text, JSON and the formats of other tools. Views know answers, not targets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

View = Callable[[dict[str, Any]], Iterable[str]]


def view(command: str, format_: str) -> View:
    """The function that turns the document of ``command`` into lines of ``format_`` (not ``json``)."""
    if format_ == "nagios":
        from drgn_unaccepted.views.nagios import nagios

        return nagios
    if format_ == "junit":
        from drgn_unaccepted.views.junit import junit

        return junit
    if format_ == "prometheus":
        from drgn_unaccepted.views.prometheus import prometheus

        return prometheus
    from drgn_unaccepted.views.text import VIEWS

    return VIEWS[command]
