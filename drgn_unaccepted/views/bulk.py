# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve -f``: a line for each address, made a block at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Union

from drgn_unaccepted.answer.bulk import Block, Bulk
from drgn_unaccepted.answer.state import UNACCEPTED

if TYPE_CHECKING:
    from drgn_unaccepted.answer.bulk_lines import Lines

#: Characters of the longest state.
_WIDTH = len(UNACCEPTED)


def text(block: Union[Block, Lines], bulk: Bulk) -> str:
    """Lines of the address as it was written and its state."""
    outside = "  (outside the bitmap)" if bulk.has_table else "  (no table)"
    ends = [f"  {kind.state:>{_WIDTH}}{outside if kind.covered is False else ''}\n" for kind in bulk.kinds]
    if isinstance(block, Block):
        return "".join([word + ends[kind] for word, kind in zip(block.words, block.kinds)])
    from drgn_unaccepted.views.bulk_lines import ended

    return ended(block, [end.encode() for end in ends])


def json_lines(block: Block, bulk: Bulk) -> str:
    """JSON lines: ``{"address": 4294967296, "state": "accepted", "covered": true}``."""
    ends = [f', "state": "{kind.state}", "covered": {json.dumps(kind.covered)}}}\n' for kind in bulk.kinds]
    return "".join([f'{{"address": {address}{ends[kind]}' for address, kind in zip(block.addresses, block.kinds)])
