# SPDX-License-Identifier: LGPL-2.1-or-later
"""``__main__`` of the zipapp and of the Debian package, which bring all but drgn: drgn is compiled."""

import sys

from drgn_unaccepted.cli import main

try:
    sys.exit(main())
except ModuleNotFoundError as error:
    if error.name != "drgn":
        raise
    print(
        "drgn-unaccepted: drgn is not installed for this Python (pip install drgn, or the distribution's python3-drgn);"
        " only --snapshot, merge and --help do without",
        file=sys.stderr,
    )
    sys.exit(3)
