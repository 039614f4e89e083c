# SPDX-License-Identifier: LGPL-2.1-or-later
"""Questions asked of a Snapshot; each answer is plain data in the shape of the JSON contract."""
