# SPDX-License-Identifier: LGPL-2.1-or-later
"""What scripts/bench measures: one module for each subject, each with ours and the other side by side."""
