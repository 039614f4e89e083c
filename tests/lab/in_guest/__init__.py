# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests/lab/test_live.py runs inside a lab guest, as root, with this machine's Python."""
