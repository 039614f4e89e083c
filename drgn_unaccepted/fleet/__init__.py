# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many targets: ``scan`` checks them, ``merge`` summarizes the records. A scheduler's array gives the shards."""
