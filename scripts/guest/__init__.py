# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest lab: real kernels with unaccepted memory, booted under QEMU and captured (see `scripts/lab --help`)."""
