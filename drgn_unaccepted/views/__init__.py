# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers in other forms: a document in, lines or bytes out. Views read no target and write no file."""
