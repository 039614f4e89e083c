# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_unaccepted`` is ``drgn-unaccepted``."""

import os
import signal
import sys


def main() -> int:
    """The console script. Until :func:`cli.main` takes over, SIGINT ends it as quietly as it ends a C program."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from drgn_unaccepted.cli import main as run

    signal.signal(signal.SIGINT, before)
    return run()


if __name__ == "__main__":
    sys.exit(main())
