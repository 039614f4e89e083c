# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots over time: recordings, the flight recorder."""
