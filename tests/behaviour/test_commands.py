"""Each command as a user calls it: data on stdout, people on stderr, exit codes, hostile text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

from selfplay.selection.pair_rules import PairRules
from tests.helpers.make_run import HOSTILE, config, make_run

Call = Callable[..., Result]


def harmless(text: str) -> bool:
    return all(character.isprintable() or character in "\n\u200d" for character in text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["rounds"],
        ["show", "1"],
        ["show", "0"],
        ["pairs", "1"],
        ["verify"],
        ["verify", "--deep"],
        ["config", "show"],
    ],
)
def test_json_is_one_document_and_nothing_else(selfplay: Call, whole_run: Path, arguments: list[str]) -> None:
    at = 2 if arguments[0] == "config" else 1
    plain = selfplay(*arguments[:at], whole_run, *arguments[at:])
    assert plain.exit_code == 0, plain.stderr
    assert plain.stdout
    result = selfplay(*arguments[:at], whole_run, *arguments[at:], "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert arguments[0] == "config" or document["schema_version"] == 1


def test_hostile_text_is_harmless_everywhere(selfplay: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", text=HOSTILE, rounds=1).layout.root
    pair_id = next(
        pair["pair_id"]
        for pair in json.loads(selfplay("pairs", run, 1, "--json").stdout)["pairs"]
        if pair["prompt_id"].endswith("000")
    )
    for arguments in (
        ["pairs", run, 1, "--content"],
        ["pair", run, pair_id],
        ["pair", run, HOSTILE],
        ["pairs", run, 1, "--where", HOSTILE],
        ["diff", f"{run}@0", "@1", "--content"],
        ["diff", HOSTILE, "@1"],
        ["sql", run, "select text, messages from responses join prompts using (prompt_id)"],
        ["sql", run, HOSTILE],
    ):
        for flags in ([], ["--json"]):
            result = selfplay(*arguments, *flags)
            assert harmless(result.stdout), repr(result.stdout)
            assert harmless(result.stderr), repr(result.stderr)
    shown = selfplay("pair", run, pair_id).stdout
    assert "\\x1b[2J" in shown
    assert "[bold red]markup[/]" in shown
    document = json.loads(selfplay("pair", run, pair_id, "--json").stdout)
    assert HOSTILE in document["prompt"]["messages"][0]["content"]
    assert HOSTILE in {response["text"] for response in document["responses"]}


@pytest.mark.parametrize("command", [["status"], ["rounds"], ["verify"], ["show", "1"], ["pairs", "1"], ["pair", "x"]])
def test_a_folder_that_is_no_run(selfplay: Call, tmp_path: Path, command: list[str]) -> None:
    result = selfplay(command[0], tmp_path, *command[1:])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "is not a run" in result.stderr
    assert "Traceback" not in result.stderr


def test_status_of_a_corrupt_run(selfplay: Call, whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    path = run / "rounds/001/sample/part-00000.parquet"
    path.unlink()
    result = selfplay("status", run)
    assert result.exit_code == 5
    assert "corrupt" in result.stdout
    assert str(path) in result.stdout
    result = selfplay("status", run, "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["state"] == "corrupt"
    for arguments in (["rounds", run], ["show", run, 1]):
        result = selfplay(*arguments)
        assert result.exit_code == 5
        assert str(path) in result.stderr
    for flags in ([], ["--json"]):
        result = selfplay("verify", run, *flags)
        assert result.exit_code == 5
        assert str(path) in result.stdout


def test_run_with_nothing_committed(selfplay: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", stop=(0, "prompts"), outcome="failed").layout.root
    assert "failed on purpose" in selfplay("status", run).stdout
    result = selfplay("rounds", run)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no stage is committed yet" in result.stderr
    assert json.loads(selfplay("rounds", run, "--json").stdout)["rounds"] == []
    assert "none yet" in selfplay("show", run, 1).stderr
    assert selfplay("verify", run).exit_code == 0


def test_run_with_only_round_zero(selfplay: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", stop=(1, "prompts"), outcome="interrupted").layout.root
    rounds = selfplay("rounds", run).stdout
    assert "held-out" in rounds
    assert "kept" not in rounds
    assert "selfplay resume" in selfplay("status", run).stdout
    result = selfplay("pairs", run, 1)
    assert result.exit_code == 2
    assert "stage select of round 1 is not committed" in result.stderr
    assert "No round has its pairs yet" in selfplay("pair", run, "x").stderr


def test_rounds_marks_what_is_not_complete_and_skipped_training(selfplay: Call, tmp_path: Path) -> None:
    skipped = {"skipped": True, "policy_round": 0, "optimizer_steps": 0}
    run = make_run(tmp_path / "run", stop=(1, "evaluate"), fields={(1, "train"): skipped}).layout.root
    result = selfplay("rounds", run)
    assert "1 *" in result.stdout
    assert "skipped" in result.stdout
    assert "not complete" in result.stderr
    assert "the policy is that of round 0" in selfplay("show", run, 1).stdout


def test_pairs_are_filtered_and_paged(selfplay: Call, whole_run: Path) -> None:
    line = ["pairs", whole_run, 1, "--where", "rank > 2 and not kept", "--sort", "explicit_margin"]
    document = json.loads(selfplay(*line, "--limit", 2, "--offset", 1, "--json").stdout)
    whole = json.loads(selfplay(*line, "--json").stdout)
    assert (whole["num_pairs"], whole["num_matching"], len(whole["pairs"])) == (11, 5, 5)
    assert document["pairs"] == whole["pairs"][1:3]
    assert not any(pair["kept"] for pair in whole["pairs"])
    said = selfplay(*line, "--limit", 2, "--offset", 1)
    assert "2 to 3 of 5 pairs that match (of 11)" in said.stderr
    assert len(said.stdout.splitlines()) == 4
    assert "5 of 11 pairs match; the page starts after 9" in selfplay(*line, "--offset", 9).stderr
    both = json.loads(selfplay("pairs", whole_run, 1, "--where", "rank > 2 or kept", "--dropped", "--json").stdout)
    assert both["num_matching"] == 5
    wrong = selfplay("pairs", whole_run, 1, "--where", "rnak > 2")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "Did you mean rank?" in wrong.stderr


def test_config_commands(selfplay: Call, whole_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config(2, PairRules())))
    assert yaml.safe_load(selfplay("config", "show", path).stdout) == yaml.safe_load(
        selfplay("config", "show", whole_run).stdout
    )
    result = selfplay("config", "validate", path, "training.beta=0.2", "--json")
    assert json.loads(result.stdout)["config"]["training"]["beta"] == 0.2
    result = selfplay("config", "validate", path, "training.bta=0.2")
    assert result.exit_code == 2
    assert "training.beta" in result.stderr
    settings = {
        setting["name"]: setting for setting in json.loads(selfplay("config", "schema", "--json").stdout)["settings"]
    }
    assert list(settings["rounds"]) == ["name", "type", "required", "default", "tag", "description", "rule"]
    assert settings["rounds"] | {"description": ""} == {
        "name": "rounds", "type": "integer", "required": True, "default": None, "tag": "extendable", "description": "",
        "rule": ">= 1",
    }  # fmt: skip
    assert settings["training.loss"]["type"] == "dpo | simpo"
    assert settings["selection.keep"]["type"] == "number or integer"
    assert all(setting["description"] for setting in settings.values())
    assert "training.lora.r: integer, >= 1" in selfplay("config", "schema").stdout


def test_doctor_exit_code(selfplay: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfplay.inspect.doctor import doctor

    monkeypatch.setattr(doctor, "gpu_memory", lambda: [])
    document = json.loads(selfplay("doctor", "--quick", "--json").stdout)
    assert list(document) == ["schema_version", "ok", "findings"]
    assert all(list(finding) == ["name", "state", "message", "hint"] for finding in document["findings"])
    monkeypatch.setattr(doctor, "installed_versions", dict)
    result = selfplay("doctor", "--quick")
    assert result.exit_code == 1
    assert "fail  torch: torch is not installed" in result.stdout
    assert "-> pip install 'torch" in result.stdout
