# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel logged, and targets that are text alone: a log, an sos report."""
