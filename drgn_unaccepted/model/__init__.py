# SPDX-License-Identifier: LGPL-2.1-or-later
"""Arithmetic on integers and bytes: no drgn, no files. Ends are exclusive, addresses are physical and in bytes."""
