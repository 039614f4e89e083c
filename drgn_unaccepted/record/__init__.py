# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots over time: recordings, the loop that takes samples, the flight recorder."""
