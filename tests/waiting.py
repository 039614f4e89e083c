# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wait for something that another process does."""

from __future__ import annotations

import time
from typing import Any, Callable


def wait_for(what: Callable[[], Any], told: Callable[[], object]) -> Any:
    """The first answer of ``what`` that is true; after 30,000 others it hangs, which fails with what is told then.

    No clock is read: a slow machine gets more time for the same number.
    """
    for _ in range(30_000):
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(str(told())[-3000:])
