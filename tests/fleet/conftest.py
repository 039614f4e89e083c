# SPDX-License-Identifier: LGPL-2.1-or-later
"""A scan without its costly part."""

from __future__ import annotations

import pytest

from drgn_unaccepted.fleet import process


@pytest.fixture
def no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes that find every dump unreadable, at once: for tests of what becomes of the records."""
    monkeypatch.setattr(process, "_START", "import sys; sys.exit(sys.stderr.write('not a dump\\n') and 3)")
