# SPDX-License-Identifier: LGPL-2.1-or-later
"""The types of the documents that ``scan`` and ``merge`` write; None for unknown."""

from __future__ import annotations

from typing import Optional, TypedDict, Union

from drgn_unaccepted.answer.documents import FindingDocument, PlatformDocument, SourceName, Status, TableDocument


class ScanHeader(TypedDict):
    """What a run of ``scan`` is to do; the line before its records."""

    schema: str
    command: str
    shard: list[int]  #: ``[index, count]``, the index from 0.
    targets: int
    done: Optional[int]  #: Targets that had a record before this run. Older scans did not write it.


class ErrorDocument(TypedDict):
    """Why a target has no answer."""

    #: ``unreadable`` (no dump, damaged, another architecture), ``crash``, ``timeout``, ``memory``, ``defect`` (a bug of
    #: this program); ``no-answer`` in what the Ansible role writes for a host.
    kind: str
    reason: str


class RecordTarget(TypedDict):
    kind: Optional[str]
    path: str
    release: Optional[str]
    build_id: Optional[str]
    debug_info: Optional[str]
    taken_at: Optional[str]
    crashed_at: Optional[str]


class ScanRecord(TypedDict):
    """One target: the answer of ``check`` without the findings that passed. Without an answer most keys are None."""

    schema: str
    command: str
    id: str  #: Identifies path, size and modification time of the target.
    host: Optional[str]  #: The guest, if the manifest, ``--host`` or a file name tells it.
    error: Optional[ErrorDocument]
    target: RecordTarget
    platform: Optional[PlatformDocument]
    status: Status
    findings: list[FindingDocument]  #: Findings that neither passed nor were skipped.
    passed: list[str]
    skipped: list[str]
    #: These three are None in an answer of ``check``.
    file_bytes: Optional[int]
    seconds: Optional[float]
    finished_at: Optional[str]
    table: Optional[TableDocument]
    source: Optional[SourceName]
    exact: Optional[bool]
    source_reason: Optional[str]
    covered_bytes: Optional[int]
    unaccepted_bytes: Optional[int]
    nr_unaccepted_bytes: Optional[int]
    unaccepted_bytes_min: Optional[int]
    unaccepted_bytes_max: Optional[int]
    initially_unaccepted_bytes: Optional[int]
    torn: Optional[list[str]]


class Example(TypedDict):
    host: Optional[str]
    path: str
    message: str


class Occurrence(TypedDict):
    targets: int
    hosts: int
    releases: dict[str, int]  #: Targets for each release and platform.
    platforms: dict[str, int]
    examples: list[Example]


class FailureSummary(Occurrence):
    kind: str


class FindingSummary(Occurrence):
    rule: str
    status: str
    told_hosts: int  #: Hosts that could tell: at least one of their answers did not skip the rule.


class OddFinding(TypedDict):
    rule: str
    status: str
    hosts: int


class OddHost(TypedDict):
    host: str
    findings: list[OddFinding]


class Problem(TypedDict):
    where: str
    reason: str


class MergeSummary(TypedDict):
    schema: str
    command: str
    targets: int
    unnamed_targets: int
    hosts: int
    answered_hosts: int
    statuses: dict[str, int]  #: Targets for each status; ``failed`` had no answer.
    findings: list[FindingSummary]  #: Worst first.
    unknown: Occurrence  #: Targets that were read without a verdict.
    failed: list[FailureSummary]
    #: A row for each: its name, None where that is unknown, its targets, and how many have each status.
    releases: list[dict[str, Union[str, int, None]]]
    platforms: list[dict[str, Union[str, int, None]]]
    #: Hosts that fail a rule that most of the others pass: the first of them, and how many there are.
    standing_out: list[OddHost]
    standing_out_hosts: int
    doubles: int  #: Records of a target that has a better or later one.
    replaced: int  #: Records of a dump that was written anew since.
    incomplete: list[str]  #: Shards and targets that are missing.
    problems: list[Problem]
    problem_count: int
