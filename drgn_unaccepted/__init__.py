# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unaccepted memory of confidential guests, in a live Linux kernel or a vmcore.

The public names are those of :mod:`drgn_unaccepted.helpers`, which is imported when one of them is first used: the
command line imports this package before it knows whether it needs drgn.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "e820_table",
    "efi_memory_map",
    "efi_unaccepted_table",
    "for_each_accepting_range",
    "for_each_unaccepted_page",
    "for_each_unaccepted_range",
    "load_types",
    "pfn_is_unaccepted_memory",
    "phys_to_unit",
    "range_contains_unaccepted_memory",
    "resolve_address",
    "take_snapshot",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("drgn_unaccepted.helpers"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
