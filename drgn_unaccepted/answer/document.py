# SPDX-License-Identifier: LGPL-2.1-or-later
"""Old names, until map, history, report, views and fleet use the types of documents.py."""

from __future__ import annotations

from typing import Any

from drgn_unaccepted.answer.documents import SCHEMA
from drgn_unaccepted.answer.head import head, platform_document, unaccepted_bytes

Document = dict[str, Any]


def document(*words: Any) -> Document:
    return dict(head(*words))


__all__ = ["SCHEMA", "Document", "document", "platform_document", "unaccepted_bytes"]
