# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manifests, against Kubernetes' published schemas (PyPI's kubernetes-validate ships them), and what they run."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.tools import INTEGRATIONS, SAMPLES, TOP, json_lines, run

yaml = pytest.importorskip("yaml", reason="PyYAML is not here: pip install pyyaml")

MANIFESTS = INTEGRATIONS / "kubernetes"

#: backoffLimitPerIndex is stable since 1.33; before 1.29 an API server drops it.
VERSIONS = ["1.29", "1.33", "1.37"]


def manifest(name: str) -> dict[str, Any]:
    (document,) = yaml.safe_load_all((MANIFESTS / name).read_text())
    loaded: dict[str, Any] = document
    return loaded


def validate(document: dict[str, Any], version: str) -> None:
    library = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not here: pip install kubernetes-validate"
    )
    library.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["scan.yaml", "merge.yaml"])
def test_the_schema_holds(name: str, version: str) -> None:
    validate(manifest(name), version)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda spec: spec.update(completionsMode="Indexed"),
        lambda spec: spec.update(completions="8"),
        lambda spec: spec["podFailurePolicy"]["rules"][1].pop("action"),
        lambda spec: spec["template"]["spec"]["containers"][0].update(volumeMounts=[{"name": "x"}]),
    ],
)
def test_the_schema_would_not_hold(break_it: Any) -> None:
    document = copy.deepcopy(manifest("scan.yaml"))
    break_it(document["spec"])
    library = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not here")
    with pytest.raises(library.ValidationError):
        validate(document, VERSIONS[-1])


def container(name: str) -> dict[str, Any]:
    (found,) = manifest(name)["spec"]["template"]["spec"]["containers"]
    loaded: dict[str, Any] = found
    return loaded


def test_every_volume_that_is_mounted_is_there() -> None:
    for name in ("scan.yaml", "merge.yaml"):
        pod = manifest(name)["spec"]["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_pod_does_what_it_says(tmp_path: Path) -> None:
    """Its command line and environment as a kubelet would have them, for each index; then the merge."""
    scan, merge = container("scan.yaml"), container("merge.yaml")
    spec = manifest("scan.yaml")["spec"]
    environment = {entry["name"]: entry["value"] for entry in scan["env"]}
    assert environment["JOB_COMPLETION_COUNT"] == str(spec["completions"])

    def argv(words: list[str], index: int) -> list[str]:
        # A kubelet expands $(NAME); the volumes are these directories here.
        words = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in words]
        return [word.replace("/archive", str(SAMPLES)).replace("/results", str(tmp_path)) for word in words]

    command = [sys.executable, "-m", "drgn_unaccepted"]
    assert scan["command"] == merge["command"] == ["drgn-unaccepted"]
    for index in range(spec["completions"]):
        given = {**os.environ, **environment, "JOB_COMPLETION_INDEX": str(index)}
        done = run([*command, *argv(scan["args"], index)], cwd=TOP, env=given)
        # An index that has no dump has an empty shard, and is no failure.
        assert done.returncode == 0, done.stderr
    files = sorted(tmp_path.iterdir())
    assert len(files) == spec["completions"]
    found = [line["target"]["path"] for file in files for line in json_lines(file) if "id" in line]
    assert sorted(found) == sorted(str(path) for path in SAMPLES.glob("*/vmcore"))
    done = run([*command, *argv(merge["args"], 0), "--format", "json"], cwd=TOP)
    summary = json.loads(done.stdout)
    assert (summary["targets"], summary["incomplete"]) == (len(found), [])
