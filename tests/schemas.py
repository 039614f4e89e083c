# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package's JSON Schemas, and whether a document holds to one."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Optional

import jsonschema

SCHEMAS = Path(__file__).parents[1] / "drgn_unaccepted" / "schema"


def violation(name: str, document: Any) -> Optional[str]:
    """How a document breaks a schema, or None."""
    error = next(_validator(name).iter_errors(document), None)
    return None if error is None else f"{list(error.absolute_path)}: {error.message[:300]}"


@cache
def _validator(name: str) -> Any:
    kind: Any = jsonschema.validators.extend(jsonschema.Draft7Validator, {"contentEncoding": _content_encoding})
    return kind(json.loads((SCHEMAS / f"{name}.json").read_text()))


def _content_encoding(validator: Any, encoding: str, value: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """Draft 7 leaves it open whether this is more than a remark."""
    assert encoding == "base64"
    if isinstance(value, str):
        try:
            base64.b64decode(value, validate=True)
        except ValueError as error:
            yield jsonschema.ValidationError(str(error))
