# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a target, with drgn: its memory, types and symbols."""

from drgn_unaccepted.errors import TargetError

try:
    import drgn
except ModuleNotFoundError:
    raise TargetError(
        "drgn is not installed for this Python; only --snapshot, --log, --sos and merge work without"
    ) from None

if not hasattr(drgn, "Module"):  # drgn 0.0.31, the oldest that is tested (tests/test_versions.py)
    raise TargetError(f"drgn {drgn.__version__} is too old: at least drgn 0.0.31 is needed, except for --snapshot")
