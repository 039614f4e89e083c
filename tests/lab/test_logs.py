# SPDX-License-Identifier: LGPL-2.1-or-later
"""The console logs of guests that booted, as targets of their own, against the guests' own accounts."""

from __future__ import annotations

import pytest

from tests.lab.asking import NEEDS_CAPTURES, ask, ids
from tests.lab.captures import UNIT, Capture, captures, units

pytestmark = NEEDS_CAPTURES


@pytest.mark.parametrize("capture", [c for c in captures() if c.has_account], ids=ids)
@pytest.mark.parametrize("name", ["serial.log", "guest/dmesg"])
def test_a_log_knows_what_was_unaccepted_at_boot(
    capture: Capture, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer, _ = ask(capsys, "--log", capture.path / name, "ranges")
    initial = capture.initial_units()
    if not initial or answer["source"] == "none":
        pytest.skip(f"no EFI memory map in the log: {answer['source_reason']}")
    assert (status, answer["initially_unaccepted_bytes"]) == (0, len(initial) * UNIT)
    assert units(answer, "unknown") == initial
    assert not units(answer, "accepted") & initial and not units(answer, "unaccepted")
