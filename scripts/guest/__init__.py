# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest lab: real kernels with unaccepted memory, under QEMU and captured; see `scripts/lab --help`."""
