# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers as text, JSON and the formats of other tools. Views know answers, not targets."""
