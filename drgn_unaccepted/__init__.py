# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unaccepted memory of confidential guests, in a live Linux kernel or a vmcore."""

__version__ = "0.1.0"
