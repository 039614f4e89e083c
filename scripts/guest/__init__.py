# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest lab boots real kernels with unaccepted memory under QEMU and captures them; see `scripts/lab --help`."""
