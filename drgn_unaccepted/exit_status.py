# SPDX-License-Identifier: LGPL-2.1-or-later
"""The exit statuses of the commands."""

ANSWERED, WARNING, CRITICAL, CANNOT, INTERRUPTED = 0, 1, 2, 3, 130  #: Only ``check`` uses 1 and 2.

OF_CHECK = {"ok": ANSWERED, "warning": WARNING, "critical": CRITICAL, "unknown": CANNOT}  #: By its overall status.
