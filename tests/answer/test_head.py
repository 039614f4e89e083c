# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reasons of an answer in short."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import pytest

from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.head import head, reasons, table_reason
from drgn_unaccepted.snapshot import Table
from tests.checks.build import clean

KDUMP = (
    "physical: 0x1f773018-0x1f773030 is not in this target (could not read memory from kdump: Excluded page: "
    "0x1f773018){}. Since Linux 6.6 the table is in ACPI memory, which kdump and /proc/kcore omit. Whole-RAM dumps "
    "contain it"
)
OMITTED = "the table is not in this dump: kdump omits ACPI memory"


@pytest.mark.parametrize(
    ("table", "short"),
    [
        (Table("present", bitmap=b"\x01"), None),
        (Table("not-captured", KDUMP.format(""), 0x1F773018), OMITTED),
        (
            Table("not-captured", KDUMP.format("; bpf: BPF_PROG_LOAD: EPERM: this process lacks CAP_BPF"), 0x1000),
            "the table was not captured: BPF_PROG_LOAD: EPERM: this process lacks CAP_BPF",
        ),
        (Table("not-captured", "not located: efi.unaccepted: x"), "the table was not found: efi.unaccepted: x"),
        (
            Table("not-captured", "physical: the header reads as zeros. Since Linux 6.6", 0x1000),
            "the table reads as zeros in this dump: not captured",
        ),
        (Table("not-captured", "header read, bitmap not", 0x1000, version=1), "of the table only the header"),
        (Table("unsupported", "version 3, only version 1 is known"), "the table is not supported: version 3, only"),
        (Table("absent", "struct efi has no member unaccepted"), "no table: struct efi has no member unaccepted"),
        (Table("invalid", "size: the bitmap has no bytes"), "the table is invalid: size: the bitmap has no bytes"),
        (Table("present", "x", bitmap=b"\x01", read_through="file", same_boot=True), "the table was saved earlier in"),
        (Table("present", "x", bitmap=b"\x01", read_through="physical"), "the table is not believed: x"),
    ],
)
def test_the_reason_of_a_missing_table_is_one_short_line(table: Table, short: Optional[str]) -> None:
    snapshot = replace(clean(), table=table)
    found = table_reason(head(snapshot, judge(clean()), "summary")["table"] | {"reason": table.reason})  # type: ignore[arg-type]
    assert found == short if short is None else found is not None and found.startswith(short) and len(found) <= 80


def test_a_kdump_without_the_efi_map_says_so_in_a_line() -> None:
    """The usual one: the guest was booted without efi=debug."""
    no_map = "boot-map: boot_params.efi_info.efi_memmap 0x1f771040: not in this dump; kernel-log: no efi: mem lines"
    bare = replace(
        clean(), table=Table("not-captured", KDUMP.format(""), 0x1F773018), efi_map=None, missing={"efi_map": no_map}
    )
    answer = head(bare, judge(bare), "summary")
    lines = ["no EFI memory map either: efi=debug, or keep, would make it exact"]
    assert reasons(answer) == [OMITTED, *lines] and no_map in str(answer["source_reason"])
    assert reasons(head(clean(), judge(clean()), "summary")) == []
