# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_unaccepted`` is ``drgn-unaccepted``."""

import sys

from drgn_unaccepted.cli import main

sys.exit(main())
