# SPDX-License-Identifier: LGPL-2.1-or-later
"""``__main__`` of the zipapp and of the Debian package. They contain everything but drgn, which is compiled."""

import sys

if sys.version_info < (3, 9):  # noqa: UP036  Such a Python cannot compile the package.
    this = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    sys.stderr.write(f"drgn-unaccepted: this is {this}, and at least 3.9 is needed\n")
    sys.exit(3)

from drgn_unaccepted.__main__ import main
from drgn_unaccepted.errors import CommandError


class _WithoutDrgn:
    """The last finder of modules, which is asked only if there is no drgn."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "drgn":
            raise CommandError(
                "drgn is not installed for this Python (pip install drgn, or the distribution's python3-drgn);"
                " only --snapshot, merge and --help work without it"
            )


sys.meta_path.append(_WithoutDrgn)
sys.exit(main())
