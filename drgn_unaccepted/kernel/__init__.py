# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads of a kernel's structures in an open target. They end at a Snapshot."""

import drgn_unaccepted.targets  # noqa: F401  # raises its reason where there is no drgn
