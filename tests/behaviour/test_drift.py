"""Every setting changed on the resume of a run: the right answer for each, by the driver that resumes it."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from selfplay.config.load import fields, load_config, validate
from selfplay.config.schema import Config
from selfplay.config.tags import Tag
from selfplay.core.errors import DriftError
from selfplay.execution.progress import Reporter
from selfplay.run import driver
from selfplay.store.run import Store
from tests.helpers.changed_settings import BASE, NOT_TO_BE_CHANGED, SETTINGS, TOGETHER, config
from tests.helpers.fakes import Fakes

# settings that stand for shared rounds, which no fork can change (and for prompts: only one from round 0)
UNFORKABLE = ("policy", "evaluation", "reward", "seed")
# places: tested with real content below
CONTENT = sorted(name for name, (tag, _, _) in SETTINGS.items() if tag == "content")
# keys that pass through, and sections that come or go
OTHERS: dict[str, tuple[Tag, Any, Any]] = {
    "sampling.engine.max_num_seqs": ("resource", 4, 8),
    "sampling.engine.enforce_eager": ("resource", None, True),
    "sampling.engine.max_model_len": ("identity", None, 64),
    "sampling.engine.quantization": ("identity", None, "fp8"),
    "training.trl.torch_empty_cache_steps": ("resource", None, 1),
    "training.trl.label_smoothing": ("identity", None, 0.1),
    "training.lora": ("identity", True, False),
    "sampling.mix": ("identity", True, False),
    "evaluation": ("identity", True, False),
}


def never(*_: Any) -> Any:
    raise AssertionError("no worker is needed")


@dataclasses.dataclass(frozen=True)
class Base:
    """A finished run of one round on fakes, and what a resume of it has found out before it looks at the settings."""

    store: Store
    prepared: driver.Prepared

    @property
    def pins(self) -> dict[str, str]:
        return self.prepared.inputs.pins

    def resume(self, before: Config, after: Config) -> list[str]:
        """What a resume says of changes before anything else; the run has no work left, so that no worker is made."""
        people = io.StringIO()
        prepared = dataclasses.replace(self.prepared, config=after)
        driver.resume(self.store, prepared, before, self.pins, Reporter(people), workers=never)
        return [line.removeprefix("changed: ") for line in people.getvalue().splitlines() if "changed: " in line]


@pytest.fixture(scope="module")
def base(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("drift")
    document = {
        "policy": {"model": str(tiny_world / "policy")},
        "prompts": {"source": str(tiny_world / "prompts.jsonl"), "per_round": 8},
        "sampling": {"num_responses": 4, "max_tokens": 8},
        "reward": {"model": str(tiny_world / "reward_model")},
        "training": {"beta": 0.1, "learning_rate": 1e-3, "batch_size": 2},
        "evaluation": {"source": str(tiny_world / "eval_prompts.jsonl"), "num_prompts": 4},
        "rounds": 1,
    }
    given = folder / "config.yaml"
    given.write_text(yaml.safe_dump(document))
    prepared = driver.preflight(load_config(given), folder, folder / "run")
    store = driver.run(prepared, given.read_text(), [], Reporter(quiet=True), workers=Fakes(gold=False))
    return Base(store, prepared)


@pytest.fixture
def untouched(base: Base) -> Iterator[None]:
    """A refused resume writes nothing."""

    def files() -> dict[str, tuple[int, int]]:
        every = (path for path in base.store.layout.root.rglob("*") if path.is_file() and path.name != "run.lock")
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in every}

    before = files()
    yield
    assert files() == before


def untold(schema: list[tuple[str, Any]], table: Mapping[str, Any]) -> list[str]:
    """Settings without a tag that is known, or without a changed value in the table."""
    return [
        name
        for name, field in schema
        if (field.json_schema_extra or {}).get("tag") not in get_args(Tag) or name not in {*table, *NOT_TO_BE_CHANGED}
    ]


def test_every_setting_has_a_tag_and_a_changed_value() -> None:
    schema = list(fields())
    assert untold(schema, SETTINGS) == []
    # and the check can fail: a field without a tag, and one without a changed value
    from pydantic import Field
    from pydantic.fields import FieldInfo

    bare: FieldInfo = Field(1, description="has no tag")
    assert untold([*schema, ("sampling.new", bare)], SETTINGS | {"sampling.new": None}) == ["sampling.new"]
    assert untold(schema, {name: row for name, row in SETTINGS.items() if name != "seed"}) == ["seed"]


def check_refused(base: Base, before: Config, after: Config, name: str, line: str) -> None:
    """A resume is refused with that line, and the way out is right: a fork where one can make the change."""
    with pytest.raises(DriftError) as refused:
        base.resume(before, after)
    assert refused.value.exit_code == 4
    assert line in [said.strip() for said in refused.value.message.splitlines()]
    hint = refused.value.hint
    assert "Resume with the settings that it was started with" in hint
    if name.partition(".")[0] in UNFORKABLE:
        assert "a fork cannot change" in hint and f"{name}: " in hint
        return
    words = shlex.split(hint.splitlines()[-1])
    from_round = "0" if name.startswith("prompts.") else "1"
    assert words[:5] == ["selfplay", "fork", str(base.store.layout.root), "--from-round", from_round]
    # the command leads to the settings that were asked for
    offered = {word.partition("=")[0]: word.partition("=")[2] for word in words[5:]}
    owner = name if name in offered else name.rpartition(".")[0]
    assert owner in offered, hint
    if name in offered:
        section: Any = after.model_dump()
        for part in name.split("."):
            section = section[part]
        assert json.loads(offered[name]) == section


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", [name for name, (tag, _, _) in SETTINGS.items() if tag == "identity"])
def test_a_changed_identity_is_refused(base: Base, name: str) -> None:
    _, value, sections = SETTINGS[name]
    before = config(BASE | {"rounds": 1} | sections)
    after = config(BASE | {"rounds": 1} | sections, **{name: value, **TOGETHER.get(name, {})})
    was = before.model_dump()
    for part in name.split("."):
        was = was[part]
    check_refused(base, before, after, name, f"{name}: {was} -> {value}")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", [name for name, (tag, _, _) in SETTINGS.items() if tag == "resource"])
def test_a_changed_resource_is_accepted_and_said(base: Base, name: str) -> None:
    _, value, sections = SETTINGS[name]
    before = config(BASE | {"rounds": 1} | sections)
    after = config(BASE | {"rounds": 1} | sections, **{name: value})
    was = before.model_dump()
    for part in name.split("."):
        was = was[part]
    assert base.resume(before, after) == [f"{name}: {was} -> {value} (resource)"]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", OTHERS)
def test_what_passes_through_and_sections_that_go(base: Base, name: str) -> None:
    tag, was, value = OTHERS[name]
    before = config(BASE | {"rounds": 1})
    after = config(BASE | {"rounds": 1}, **{name: None if value is False else value})
    if tag == "resource":
        assert base.resume(before, after) == [f"{name}: {was} -> {value} (resource)"]
    else:
        check_refused(base, before, after, name, f"{name}: {was} -> {value}")


@pytest.mark.usefixtures("untouched")
def test_rounds_grow_only(base: Base) -> None:
    def drift(before: int, after: int) -> list[str]:
        prepared = dataclasses.replace(base.prepared, config=config(BASE | {"rounds": after}))
        return driver.check_drift(base.store, config(BASE | {"rounds": before}), prepared.config, base.pins, base.pins)

    assert [name for name, (tag, _, _) in SETTINGS.items() if tag == "extendable"] == ["rounds"]
    assert drift(1, 3) == ["rounds: 1 -> 3 (extendable)"]
    # rounds that were planned and not begun may go; those that are done may not
    assert drift(3, 1) == ["rounds: 3 -> 1 (extendable)"]
    store = dataclasses.replace(base.store)
    store.rounds = lambda: [0, 1, 2]  # type: ignore[method-assign]
    prepared = dataclasses.replace(base.prepared, config=config(BASE | {"rounds": 1}))
    with pytest.raises(DriftError, match=r"rounds=1 is less than what is done \(round 2\)") as refused:
        driver.check_drift(store, config(BASE), prepared.config, base.pins, base.pins)
    assert refused.value.exit_code == 4


# ---------------------------------------------------------------------- content

REWARD = "import beside_of_drift\n\ndef reward(prompt, response):\n    return beside_of_drift.SCALE * len(response)\n"


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    first = min(tensors)
    save_file({**tensors, first: tensors[first] * 2}, folder / "model.safetensors", {"format": "pt"})


def other_text(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


@dataclasses.dataclass(frozen=True)
class World:
    """Real content for every place, in one folder: it can be moved as a whole, and changed one by one."""

    root: Path

    def document(self, kind: str) -> dict[str, Any]:
        root = self.root
        rewards: dict[str, dict[str, Any]] = {
            "model": {"model": f"{root}/reward_model"},
            "function": {"function": f"{root}/my_rewards.py:reward"},
            "parts": {
                "parts": {
                    "NAME": {"model": f"{root}/reward_model"},
                    "short": {"function": f"{root}/my_rewards.py:reward"},
                }
            },
        }
        return {
            "policy": {"model": f"{root}/policy", "chat_template": f"{root}/chat.jinja"},
            "prompts": {"source": f"{root}/prompts.jsonl", "per_round": 8},
            "sampling": {"max_tokens": 8, "mix": {"model": f"{root}/second"}},
            "reward": rewards[kind],
            "selection": {"metric": f"{root}/my_metric.py:short"},
            "training": {"beta": 0.1, "learning_rate": 1e-3, "batch_size": 2},
            "evaluation": {"source": f"{root}/eval_prompts.jsonl", "gold": f"{root}/my_gold.py:reward"},
            "rounds": 1,
        }


# setting -> (kind of reward, what it names, how that is changed)
PLACES: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "policy.model": ("model", "policy", other_weights),
    "prompts.source": ("model", "prompts.jsonl", other_text),
    "sampling.mix.model": ("model", "second", other_weights),
    "reward.model": ("model", "reward_model", other_weights),
    "reward.function": ("function", "my_rewards.py", other_text),
    "reward.parts.NAME.model": ("parts", "reward_model", other_weights),
    "reward.parts.NAME.function": ("parts", "my_rewards.py", other_text),
    "evaluation.source": ("model", "eval_prompts.jsonl", other_text),
    "evaluation.gold": ("model", "my_gold.py", other_text),
}


def named(setting: str) -> str:
    """The setting in the world's documents: of the two parts, `short` is the function."""
    return setting.replace("NAME", "short") if setting.endswith("function") else setting


def make_world(tiny_world: Path, root: Path) -> World:
    shutil.copytree(tiny_world, root)
    other_weights(Path(shutil.copytree(root / "policy", root / "second")))
    for name in ("my_rewards.py", "my_gold.py"):
        (root / name).write_text(REWARD)
    (root / "beside_of_drift.py").write_text("SCALE = 1.0\n")
    (root / "chat.jinja").write_text("{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}<|assistant|>")
    (root / "my_metric.py").write_text(
        "import beside_of_drift\n\ndef short(reward_chosen):\n    return beside_of_drift.SCALE * reward_chosen\n"
    )
    return World(root)


@pytest.fixture(scope="module")
def world(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tiny_world, tmp_path_factory.mktemp("here") / "world")


@pytest.fixture(scope="module")
def moved(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same content in another place."""
    return make_world(tiny_world, tmp_path_factory.mktemp("there") / "world")


def prepared(document: dict[str, Any], base: Base) -> driver.Prepared:
    return driver.preflight(
        validate(document, "here"), base.store.layout.root.parent, base.store.layout.root, base.store
    )


def test_every_place_is_here() -> None:
    assert sorted(PLACES) == CONTENT


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", PLACES)
def test_content_may_move_but_not_change(base: Base, world: World, moved: World, name: str) -> None:
    kind, what, change = PLACES[name]
    started = prepared(world.document(kind), base)
    setting = named(name)
    document = world.document(kind)
    section: dict[str, Any] = document
    *parents, last = setting.split(".")
    for parent in parents:
        section = section[parent]
    was = section[last]
    section[last] = was.replace(str(world.root), str(moved.root))

    def drift() -> list[str]:
        now = prepared(document, base)
        return driver.check_drift(base.store, started.config, now.config, started.inputs.pins, now.inputs.pins)

    assert drift() == [f"{setting}: {was} -> {section[last]} (content)"]

    kept = moved.root.parent / "kept"
    there = moved.root / what
    (shutil.copytree if there.is_dir() else shutil.copy2)(there, kept)
    change(there)
    try:
        with pytest.raises(DriftError, match=rf"the content of {setting} has changed \(sha256 \w{{12}} -> \w{{12}}\)"):
            drift()
    finally:
        shutil.rmtree(there) if there.is_dir() else there.unlink()
        kept.rename(there)
    assert len(drift()) == 1


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("kind", "what", "names"),
    [
        *((kind, what, [named(name)]) for name, (kind, what, _) in PLACES.items()),
        ("model", "chat.jinja", ["policy.chat_template"]),
        ("model", "my_metric.py", ["selection.metric"]),
        ("model", "beside_of_drift.py", ["evaluation.gold", "selection.metric"]),
        ("function", "beside_of_drift.py", ["evaluation.gold", "reward.function", "selection.metric"]),
        ("parts", "beside_of_drift.py", ["evaluation.gold", "reward.parts.short.function", "selection.metric"]),
    ],
)  # fmt: skip
def test_content_that_changes_in_its_place_is_refused_by_name(
    base: Base, world: World, kind: str, what: str, names: list[str]
) -> None:
    started = prepared(world.document(kind), base)
    path = world.root / what / "model.safetensors" if (world.root / what).is_dir() else world.root / what
    data = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            other_weights(path.parent)
        else:
            other_text(path)
        with pytest.raises(DriftError) as refused:
            now = prepared(world.document(kind), base)
            driver.check_drift(base.store, started.config, now.config, started.inputs.pins, now.inputs.pins)
    finally:
        path.write_bytes(data)
    assert re.findall(r"the content of (\S+) has changed", refused.value.message) == names
    assert refused.value.exit_code == 4
