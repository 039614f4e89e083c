# SPDX-License-Identifier: LGPL-2.1-or-later
"""How reading a target fails: as a whole (TargetError), or in one part (Unavailable)."""

from __future__ import annotations

import drgn

from drgn_unaccepted.errors import TargetError as TargetError


class Unavailable(Exception):
    """A part cannot be read from this target; the text is the reason that the user sees.

    One line without a full stop, which names what is missing and where. It goes into ``Snapshot.missing``.
    """


#: What a read raises where memory, symbols or types are not those of a kernel. Types may come from the target's own
#: BTF, which is no more trusted than its memory: a structure in place of a number is a TypeError, and drgn refuses
#: types that are nested too deep with a RecursionError.
DAMAGED: tuple[type[Exception], ...] = (
    drgn.FaultError,
    getattr(drgn, "BadDataError", drgn.FaultError),  # drgn 0.3.0
    drgn.ObjectAbsentError,
    drgn.OutOfBoundsError,
    AttributeError,
    LookupError,
    OSError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)

UNREADABLE: tuple[type[Exception], ...] = (Unavailable, *DAMAGED)  #: What the reader of one part raises.
