# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the capture side says that something cannot be read: the whole target, or a part of it."""

from __future__ import annotations

import drgn

from drgn_unaccepted.errors import TargetError

__all__ = ["DAMAGED", "TargetError", "Unavailable", "damage"]


class Unavailable(Exception):
    """A part cannot be read from this target; the text is the reason that the user sees.

    One line without a full stop, which names what lacks and where: ``boot_params.efi_info.efi_memmap
    0x7fb70040: not in this dump``. It goes into :attr:`drgn_unaccepted.snapshot.Snapshot.missing`.
    """


#: What a read raises where memory, symbols or types are not what a kernel has. Types can be the target's own, out of
#: its BTF, and no more to be trusted than its memory: a structure in a number's place is a TypeError,
#: and drgn refuses types that are nested too deep with a RecursionError.
DAMAGED: tuple[type[Exception], ...] = (
    drgn.FaultError,
    drgn.BadDataError,
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


def damage(error: Exception) -> str:
    """What one of :data:`DAMAGED` says, as the text of an :class:`Unavailable`."""
    # str() of a KeyError (drgn.ObjectNotFoundError) is the repr of its argument.
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    if isinstance(error, drgn.FaultError):
        return f"not in this target: {text}"
    if isinstance(error, (LookupError, AttributeError)):
        return f"this kernel has none, or its type is not known: {text}"
    if isinstance(error, (TypeError, OverflowError, RecursionError, drgn.OutOfBoundsError, drgn.ObjectAbsentError)):
        return f"its type is not what a kernel has: {text}"
    return text
