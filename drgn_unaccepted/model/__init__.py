# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical ranges, units, the bitmap and the memory maps, as arithmetic on integers and bytes.

Nothing here knows about a target: no drgn, no files. Ends are exclusive, addresses are physical and in bytes.
"""
