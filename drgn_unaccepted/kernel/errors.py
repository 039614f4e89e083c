# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one way in which a part of a target is said to be unreadable."""

from __future__ import annotations


class Unavailable(Exception):
    """A part cannot be read from this target; the text is the reason that the user sees.

    One line without a full stop, which names what lacks and where: ``boot_params.efi_info.efi_memmap
    0x7fb70040: not in this dump``. It goes into :attr:`drgn_unaccepted.snapshot.Snapshot.missing`.
    """
