"""A project (configuration, models, data, functions, template, run) that moved: a resume finds it, or says all that is gone."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import selfplay
from selfplay import api
from selfplay.core.errors import DriftError, MissingInputError
from selfplay.execution.progress import Reporter
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes
from tests.helpers.sealing import rewrite

TEMPLATE = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"
FUNCTION = "def reward(prompt, response):\n    return float(len(response))\n"
# setting -> what it names in the project
PLACES = {
    "policy.model": "policy",
    "reward.parts.long.function": "my_rewards.py",
    "reward.parts.model.model": "reward_model",
    "prompts.source": "prompts.jsonl",
    "evaluation.source": "eval_prompts.jsonl",
    "evaluation.gold": "my_gold.py",
    "selection.metric": "my_metric.py",
    "policy.chat_template": "chat.jinja",
}
FUNCTION_NAMES = {"reward.parts.long.function": "reward", "evaluation.gold": "reward", "selection.metric": "short"}


def value(setting: str, project: Path) -> str:
    name = FUNCTION_NAMES.get(setting)
    return f"{project / PLACES[setting]}" + (f":{name}" if name else "")


@pytest.fixture(scope="module")
def made(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `place/project` whose run of one round is in it, with places as people write them: relative to the configuration.
    Beside `place` lies a copy, for the next test."""
    base = tmp_path_factory.mktemp("made")
    root = Path(shutil.copytree(tiny_world, base / "place/project"))
    for name in ("my_rewards.py", "my_gold.py"):
        (root / name).write_text(FUNCTION)
    (root / "my_metric.py").write_text("def short(reward_chosen):\n    return reward_chosen\n")
    (root / "chat.jinja").write_text(TEMPLATE)
    document = {
        "policy": {"model": "policy", "chat_template": "chat.jinja"},
        "prompts": {"source": "prompts.jsonl", "per_round": 12},
        "sampling": {"num_responses": 4, "max_tokens": 8},
        "reward": {"parts": {"long": {"function": "my_rewards:reward"}, "model": {"model": "reward_model"}}},
        "selection": {"metric": "my_metric.py:short", "keep": 0.5},
        "training": {"beta": 0.1, "learning_rate": 1e-3, "batch_size": 2},
        "evaluation": {"source": "eval_prompts.jsonl", "num_prompts": 4, "gold": "my_gold.py:reward"},
        "report": {"every": 0},
        "rounds": 1,
    }
    (root / "config.yaml").write_text(yaml.safe_dump(document))
    selfplay.start(root / "config.yaml", run_dir=root / "run", reporter=Reporter(quiet=True), workers=Fakes())
    shutil.copytree(root, base / "copy")
    return root


@pytest.fixture
def project(made: Path) -> Path:
    """It, as it was made and where it was made: the run knows that place."""
    shutil.rmtree(made.parent)
    return Path(shutil.copytree(made.parent.with_name("copy"), made))


def resume(run: Path, *overrides: str) -> str:
    said = io.StringIO()
    selfplay.resume(run, overrides=["rounds=2", *overrides], reporter=Reporter(said), workers=Fakes())
    assert Store.open(run).rounds() == [0, 1, 2]
    return said.getvalue()


def test_a_project_that_moved_with_its_run_is_found(project: Path) -> None:
    moved = project.rename(project.with_name("elsewhere"))
    said = resume(moved / "run")
    for setting in PLACES:
        if setting not in ("selection.metric", "policy.chat_template"):  # they are relative to the configuration
            assert f"changed: {setting}: {value(setting, project)} -> {value(setting, moved)} (content)" in said
    # and once more: the places of the newest attempt are those that count now
    again = moved.rename(moved.with_name("third"))
    selfplay.resume(again / "run", rounds=3, reporter=Reporter(quiet=True), workers=Fakes())


def test_a_project_whose_run_was_renamed_in_it_too(project: Path) -> None:
    moved = project.rename(project.with_name("elsewhere"))
    resume((moved / "run").rename(moved / "first"))


def test_all_that_is_missing_is_listed_with_the_whole_command(project: Path) -> None:
    run = (project / "run").rename(project.with_name("run-alone"))
    moved = project.rename(project.with_name("elsewhere"))
    with pytest.raises(MissingInputError) as missing:
        resume(run)
    assert sorted(missing.value.settings) == sorted(PLACES)
    for setting in PLACES:
        assert f"\n    {setting}: " in missing.value.message
    words = shlex.split(missing.value.hint.splitlines()[-1])
    assert words[1:4] == ["resume", str(run), "rounds=2"]
    assert sorted(word.partition("=")[0] for word in words[4:]) == sorted(PLACES)
    assert [word.replace("NEW-PLACE", str(moved)) for word in words if word.startswith("evaluation.gold")] == [
        f"evaluation.gold={moved}/my_gold.py:reward"
    ]
    # the command as it is offered
    given = [f"{word.partition('=')[0]}={value(word.partition('=')[0], moved)}" for word in words[4:]]
    resume(run, *given)


@pytest.mark.parametrize("setting", PLACES)
def test_one_place_that_is_given_shows_where_the_others_are(project: Path, setting: str) -> None:
    run = (project / "run").rename(project.with_name("run-alone"))
    moved = project.rename(project.with_name("elsewhere"))
    resume(run, f"{setting}={value(setting, moved)}")


@pytest.mark.parametrize("setting", PLACES)
def test_each_missing_thing_has_its_own_key(project: Path, setting: str) -> None:
    gone = project / PLACES[setting]
    gone.rename(project.parent / "put-away")
    for call in (
        lambda: resume(project / "run"),
        lambda: api.plan_fork(project / "run", from_round=0, run_dir=project.parent / "fork"),
    ):
        with pytest.raises(MissingInputError, match=f"^{setting}: ") as missing:
            call()
        (word,) = [word for word in shlex.split(missing.value.hint.splitlines()[-1]) if word.startswith(setting)]
        assert word.startswith(f"{setting}=NEW-PLACE")
    (project.parent / "put-away").rename(gone)


@pytest.mark.parametrize("setting", PLACES)
def test_other_content_in_the_new_place_is_not_taken(project: Path, setting: str) -> None:
    moved = project.rename(project.with_name("elsewhere"))
    changed = moved / PLACES[setting]
    if changed.is_dir():
        changed = changed / "config.json"
    changed.write_text(changed.read_text().rstrip() + "\n\n")
    in_place = setting in ("selection.metric", "policy.chat_template")  # relative: there, and compared
    with pytest.raises(DriftError if in_place else MissingInputError, match=setting.replace(".", r"\.")):
        resume(moved / "run")


def test_a_run_of_a_version_that_did_not_record_its_folder(project: Path) -> None:
    run = project / "run"
    rewrite(run / "attempts/0001/attempt.json", lambda document: document.pop("run_dir"))
    moved = project.rename(project.with_name("elsewhere"))
    with pytest.raises(MissingInputError) as missing:
        resume(moved / "run")
    assert sorted(missing.value.settings) == sorted(PLACES)
    resume(moved / "run", f"policy.model={moved}/policy")


def test_another_function_of_the_same_file_is_another_reward(project: Path) -> None:
    (project / "my_gold.py").write_text(FUNCTION + FUNCTION.replace("reward(", "other("))
    pins = json.loads((project / "run/config/pins.json").read_text())
    documents: list[Any] = Store.open(project / "run").attempt_documents()
    assert pins["evaluation.gold"] and documents
    with pytest.raises(DriftError, match=r"evaluation\.gold: .*my_gold\.py:reward -> .*my_gold\.py:other"):
        resume(project / "run", f"evaluation.gold={project}/my_gold.py:other")


def test_several_missing_things_of_a_new_run_are_said_together(project: Path) -> None:
    for name in ("policy", "my_gold.py"):
        (project / name).rename(project / f"no-{name}")
    with pytest.raises(MissingInputError, match="2 things") as missing:
        api.preflight(project / "config.yaml", run_dir=project / "second", reporter=Reporter(quiet=True))
    assert missing.value.settings == ("policy.model", "evaluation.gold")


def test_a_module_in_a_package_moves_with_the_configuration(tiny_world: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_world, tmp_path / "project"))
    (root / "moved_rewards").mkdir()
    (root / "moved_rewards/mine.py").write_text(FUNCTION)
    document = {
        "policy": {"model": "policy"}, "prompts": {"source": "prompts.jsonl", "per_round": 12},
        "sampling": {"num_responses": 4, "max_tokens": 8}, "reward": {"function": "moved_rewards.mine:reward"},
        "training": {"beta": 0.1, "learning_rate": 1e-3, "batch_size": 2}, "report": {"every": 0}, "rounds": 1,
    }  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(document))
    selfplay.start(root / "config.yaml", run_dir=root / "run", reporter=Reporter(quiet=True), workers=Fakes())
    moved = root.rename(tmp_path / "elsewhere")
    # away from its project, the run does not say where that is now; no folder beside it is taken for it
    run = (moved / "run").rename(tmp_path / "alone")
    with pytest.raises(MissingInputError) as missing:
        resume(run)
    assert sorted(missing.value.settings) == ["policy.model", "prompts.source", "reward.function"]
    given = (f"reward.function={moved}/moved_rewards/mine.py:reward",)
    fork = api.plan_fork(run, from_round=0, run_dir=tmp_path / "fork", overrides=given, reporter=Reporter(quiet=True))
    assert fork.prepared.config.policy.model == str(moved / "policy")
    run.rename(moved / "run")
    for name in ("moved_rewards.mine", "moved_rewards"):  # as in another process
        del sys.modules[name]
    found = api.plan_fork(moved / "run", from_round=0, run_dir=tmp_path / "fork", reporter=Reporter(quiet=True))
    assert found.prepared.search_path == moved
