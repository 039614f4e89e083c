# SPDX-License-Identifier: LGPL-2.1-or-later
"""``__main__`` of the zipapp and of the Debian package. They contain everything but drgn, which is compiled."""

import sys

from drgn_unaccepted.cli import main
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
