# SPDX-License-Identifier: LGPL-2.1-or-later
"""Targets that are text. What a kernel printed, out of a file or out of a dump's ring buffer."""
