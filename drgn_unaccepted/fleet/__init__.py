# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives and fleets: ``scan`` checks many targets, ``merge`` says what came of it.

    manifest, directories --targets--> Target --process--> record --journal--> JSON lines --merge--> summary, table

No scheduler: shards are what a scheduler's array gives, and the files are what its workers leave.
"""
