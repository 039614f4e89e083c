# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check``: the parts of the snapshot held against each other."""

from __future__ import annotations

from collections.abc import Collection
from typing import Optional

from drgn_unaccepted.answer.document import Document, document, platform_document
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.checks import confirm, run_checks
from drgn_unaccepted.snapshot import Snapshot


def check(
    snapshot: Snapshot, source: Source, only: Optional[Collection[str]] = None, earlier: Optional[Snapshot] = None
) -> Document:
    """The findings and the worst of them.

    :param only: rules to run; all by default
    :param earlier: a sample of the same live kernel taken before; what is soft then counts only if both show it
    :raises ValueError: there is no rule of such a name
    """
    report = run_checks(snapshot, only)
    if earlier is not None:
        report = confirm(run_checks(earlier, only), report)
    shared = document(snapshot, source, "check")
    return {**shared, "platform": platform_document(snapshot.platform), **report.as_dict()}
