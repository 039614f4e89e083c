# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wait for something that another process does."""

from __future__ import annotations

import time
from typing import Any, Callable


def wait_for(what: Callable[[], Any], told: Callable[[], object]) -> Any:
    """The first answer of ``what`` that is true; after ten minutes it hangs, which fails with what is told then."""
    end = time.monotonic() + 600
    while not (found := what()):
        assert time.monotonic() < end, str(told())[-3000:]
        time.sleep(0.02)
    return found
