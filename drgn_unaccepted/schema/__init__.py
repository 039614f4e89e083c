# SPDX-License-Identifier: LGPL-2.1-or-later
"""The JSON Schemas (draft 7) of what this program writes, and how a document is held against one.

``snapshot``: a snapshot file. ``answers``: what the commands print with ``--format json``.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Callable, Optional

_MESSAGE_CHARACTERS = 300


def load_schema(name: str) -> dict[str, Any]:
    """The schema of this name."""
    schema: dict[str, Any] = json.loads((files("drgn_unaccepted.schema") / f"{name}.json").read_text("utf-8"))
    return schema


def violation(name: str, document: Any) -> Optional[str]:
    """Where and how a document breaks the schema of this name, in one line; None if it does not."""
    from fastjsonschema import JsonSchemaValueException

    try:
        _validator(name, False)(document)
        return None
    except JsonSchemaValueException:
        pass
    try:
        # With words; to make them takes three times as long.
        _validator(name, True)(document)
    except JsonSchemaValueException as error:
        text = error.message.removeprefix("data.")
        return text if len(text) <= _MESSAGE_CHARACTERS else f"{text[:_MESSAGE_CHARACTERS]} ..."
    raise AssertionError("the same schema")


@cache
def _validator(name: str, in_words: bool) -> Callable[[Any], Any]:
    from fastjsonschema import compile

    made: Callable[[Any], Any] = compile(
        load_schema(name), use_default=False, use_formats=False, detailed_exceptions=in_words
    )
    return made
