# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives and fleets: ``scan`` checks many targets, ``merge`` summarizes the results.

    manifest, directories --targets--> Target --process--> record --journal--> JSON lines --merge--> summary, CSV

There is no scheduler here: a scheduler's array gives the shards, and ``merge`` reads the files that its workers leave.
"""
