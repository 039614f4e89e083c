# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the capture side says that something cannot be read: the whole target, or a part of it."""

from __future__ import annotations


class TargetError(Exception):
    """The target cannot be read at all; the text is the one line that the user sees, with the mend in it."""


class Unavailable(Exception):
    """A part cannot be read from this target; the text is the reason that the user sees.

    One line without a full stop, which names what lacks and where: ``boot_params.efi_info.efi_memmap
    0x7fb70040: not in this dump``. It goes into :attr:`drgn_unaccepted.snapshot.Snapshot.missing`.
    """
