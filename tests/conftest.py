# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# A test never asserts wall-clock time, and a deadline is such an assertion: CI machines are slow and shared.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
