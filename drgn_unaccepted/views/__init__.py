# SPDX-License-Identifier: LGPL-2.1-or-later
"""Views: a document in, lines or bytes out. They know answers, not targets, and write no files."""
