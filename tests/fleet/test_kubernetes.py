# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manifests, against Kubernetes' published schemas (in PyPI's kubernetes-validate), and what they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main
from tests.fleet.tools import INTEGRATIONS, SAMPLES, json_lines

yaml = pytest.importorskip("yaml", reason="PyYAML is not here: pip install pyyaml")

#: backoffLimitPerIndex is stable since 1.33; before 1.29 an API server drops it.
VERSIONS = ["1.29", "1.33", "1.37"]


def manifest(name: str) -> Any:
    (document,) = yaml.safe_load_all((INTEGRATIONS / "kubernetes" / name).read_text())
    return document


def test_the_manifests_hold_to_the_schema() -> None:
    """And a wrong one would not."""
    library = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not here: pip install kubernetes-validate"
    )
    for name in ("scan.yaml", "merge.yaml"):
        for version in VERSIONS:
            library.validate(manifest(name), version, strict=True)
        pod = manifest(name)["spec"]["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    wrong = manifest("scan.yaml")
    wrong["spec"].update(completions="8")
    with pytest.raises(library.ValidationError):
        library.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.usefixtures("no_reader")
def test_the_pod_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its command line and environment as a kubelet would have them, for each index; then the merge."""
    spec = manifest("scan.yaml")["spec"]
    (scan,), (merge,) = (manifest(n)["spec"]["template"]["spec"]["containers"] for n in ("scan.yaml", "merge.yaml"))
    environment = {entry["name"]: entry["value"] for entry in scan["env"]}
    assert environment["JOB_COMPLETION_COUNT"] == str(spec["completions"])
    assert scan["command"] == merge["command"] == ["drgn-unaccepted"]

    def kubelet(words: list[str], index: int) -> list[str]:
        # It expands $(NAME); the volumes are these directories.
        words = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in words]
        return [word.replace("/archive", str(SAMPLES)).replace("/results", str(tmp_path)) for word in words]

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for index in range(spec["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        # An index that has no dump has an empty shard, and is no failure.
        assert main(kubelet(scan["args"], index)) == 0
    files = sorted(tmp_path.iterdir())
    assert len(files) == spec["completions"]
    found = [line["target"]["path"] for file in files for line in json_lines(file) if "id" in line]
    assert sorted(found) == sorted(str(path) for path in SAMPLES.glob("*/vmcore"))
    capsys.readouterr()
    assert main([*kubelet(merge["args"], 0), "--format", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["targets"], summary["incomplete"]) == (len(found), [])
