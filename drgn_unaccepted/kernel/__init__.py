# SPDX-License-Identifier: LGPL-2.1-or-later
"""The capture side: the only part of the package that imports drgn. It ends at a Snapshot."""
