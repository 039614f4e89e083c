# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_unaccepted`` is ``drgn-unaccepted``, which ends on SIGINT as quietly as a C program from its start.

From then on :func:`cli.main` handles it.
"""

import os
import signal
import sys

_BEFORE = signal.getsignal(signal.SIGINT)
if _BEFORE is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from drgn_unaccepted.cli import main  # noqa: E402

signal.signal(signal.SIGINT, _BEFORE)

if __name__ == "__main__":
    sys.exit(main())
