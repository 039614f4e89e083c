# SPDX-License-Identifier: LGPL-2.1-or-later
"""The merged records as a table, a row for each target: CSV, or Parquet through pyarrow (extra ``fleet``)."""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Optional, TextIO

from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.files import check_replaceable
from drgn_unaccepted.fleet.records import Record
from drgn_unaccepted.words import safe

See = Callable[[Record], None]

#: Name and kind of every column. Rules are names with a space between.
COLUMNS: dict[str, type] = {
    "host": str,
    "path": str,
    "status": str,
    "critical": str,
    "warning": str,
    "info": str,
    "failure": str,
    "reason": str,
    "release": str,
    "build_id": str,
    "platform": str,
    "table": str,
    "source": str,
    "exact": bool,
    "covered_bytes": int,
    "unaccepted_bytes": int,
    "nr_unaccepted_bytes": int,
    "file_bytes": int,
    "seconds": float,
    "finished_at": str,
}

#: Rows of Parquet that are written at once.
_BATCH = 4096


def row(record: Record) -> dict[str, Any]:
    """The columns of a record; None for unknown."""
    document = record.document
    target, error = document["target"], document.get("error") or {}
    values = {
        "host": record.host,
        "path": record.path,
        "status": document["status"],
        "failure": record.failure,
        "reason": error.get("reason"),
        "release": target["release"],
        "build_id": target.get("build_id"),
        "platform": (document.get("platform") or {}).get("kind"),
        "table": (document.get("table") or {}).get("state"),
        **{
            status: " ".join(finding["rule"] for finding in document["findings"] if finding["status"] == status)
            for status in ("critical", "warning", "info")
        },
    }
    return {name: values.get(name, document.get(name)) for name in COLUMNS}


@contextmanager
def csv_table(path: Optional[str]) -> Iterator[See]:
    """Write CSV to a file, whole or not at all, or to standard output.

    :raises CommandError: it cannot be written
    """
    with ExitStack() as stack:
        temporary = stack.enter_context(_replaced(path))
        file: TextIO = sys.stdout
        if temporary is not None:
            file = stack.enter_context(Path(temporary).open("w", newline="", encoding="utf-8"))
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        yield lambda record: writer.writerow({name: _cell(value) for name, value in row(record).items()})


@contextmanager
def parquet_table(path: str) -> Iterator[See]:
    """Write Parquet to a file, whole or not at all.

    :raises CommandError: it cannot be written, or pyarrow is not here
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise CommandError("Parquet needs pyarrow: pip install 'drgn-unaccepted[fleet]'") from None
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    rows: list[dict[str, Any]] = []
    with _replaced(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            rows.clear()

        def see(record: Record) -> None:
            rows.append(row(record))
            if len(rows) == _BATCH:
                flush()

        yield see
        flush()


def _cell(value: Any) -> Any:
    """Text out of a dump without what a terminal obeys, and without what a spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = safe(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


@contextmanager
def _replaced(path: Optional[str]) -> Iterator[Optional[str]]:
    """The name of a file to write, which then takes the place of ``path``."""
    if path is None:
        yield None
        return
    try:
        check_replaceable(path)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{Path(path).name}.", dir=Path(path).parent)
        os.close(descriptor)
        try:
            yield temporary
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
