"""What a command that was refused, stopped or failed leaves for the next one with the same --out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from selfplay.core.errors import BackendError, ConfigError, DataError, DriftError
from tests.helpers.tables import Fakes, Select, kept, number_table, text_rows, write_rows


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        ({"metric": "apl"}, text_rows(8)),
        ({"metric": "alignment_potential"}, text_rows(8, columns=False)),
        ({"metric": "explicit_margin", "pairs": {"max_per_prompt": 2}}, text_rows(8)),
        ({"metric": "explicit_margin"}, [{"prompt": "q", "responses": ["a", "b"], "rewards": [1, 1]}]),
        ({"metric": "explicit_margin"}, [{"prompt": "q", "responses": ["a", "b"]}]),
    ],
)
def test_a_refused_command_leaves_nothing(
    tmp_path: Path, run: Select, flags: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    source = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises((ConfigError, DataError)):
        run(source, **flags)
    assert not (tmp_path / "out").exists()
    # an empty folder that was there stays, empty
    (tmp_path / "out").mkdir()
    with pytest.raises((ConfigError, DataError)):
        run(source, **flags)
    assert list((tmp_path / "out").iterdir()) == []
    assert run(write_rows(tmp_path / "b.jsonl", text_rows(8)), metric="explicit_margin").summary["selection"]


def test_a_failing_metric_is_mended_without_computing_again(
    tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes
) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(12, columns=False))
    models = {"policy": str(tiny_world / "policy"), "reward_model": str(tiny_world / "reward_model")}
    own = tmp_path / "own.py"
    own.write_text("def own(reward_chosen, implicit_margin):\n    return reward_chosen[:3]\n")
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        run(source, metric=f"{own}:own", **models)
    seen = (len(fakes.scorer.seen), len(fakes.logprobs.seen))
    own.write_text("def own(reward_chosen, implicit_margin):\n    return reward_chosen\n")
    run(source, metric=f"{own}:own", keep=3, **models)
    assert (len(fakes.scorer.seen), len(fakes.logprobs.seen)) == seen
    assert len(kept(tmp_path / "out")) == 3


def test_what_an_unfinished_one_computed_is_of_its_data_and_models(
    tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes
) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(12, columns=False))
    models = {"policy": str(tiny_world / "policy"), "reward_model": str(tiny_world / "reward_model")}
    logprobs = fakes.logprobs.logprobs

    def broken(*arguments: Any) -> Any:
        raise BackendError("gone")

    fakes.logprobs.logprobs = broken  # type: ignore[method-assign]
    with pytest.raises(BackendError):
        run(source, **models)
    fakes.logprobs.logprobs = logprobs  # type: ignore[method-assign]
    seen = len(fakes.scorer.seen)
    with pytest.raises(DriftError, match=r"max_length: null -> 100"):
        run(source, max_length=100, **models)
    # a metric that needs more of the policy
    with pytest.raises(DriftError, match=r"computed: .* -> .*alone"):
        run(source, metric="ifd", **models)
    # the refused command took nothing away
    run(source, metric="implicit_margin_small", keep=2, weight=2.5, **models)
    assert len(fakes.scorer.seen) == seen
    with pytest.raises(DriftError, match="keep: 2 -> 3"):
        run(source, metric="implicit_margin_small", keep=3, weight=2.5, **models)


def test_a_template_is_pinned_by_its_content(tmp_path: Path, tiny_world: Path, run: Select) -> None:
    rows = [{name: value for name, value in row.items() if "logp" not in name} for row in text_rows(8)]
    source = write_rows(tmp_path / "a.jsonl", rows)
    text = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    text += "{% if add_generation_prompt %}assistant: {% endif %}"
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "chat.jinja").write_text(text)
    policy = str(tiny_world / "policy")
    first = run(source, policy=policy, chat_template=str(tmp_path / "here" / "chat.jinja"))
    assert first.summary["models"]["chat_template"]["name"] == "chat.jinja"
    for path in (tmp_path / "out").rglob("*"):
        # the record has the paths of this machine: it is not for others
        if path.is_file() and ".run" not in path.parts:
            assert str(tmp_path).encode() not in path.read_bytes(), path
    assert run(source, policy=policy, chat_template=str(tmp_path / "there" / "chat.jinja")).was_there
    (tmp_path / "there" / "chat.jinja").write_text(text + "!")
    with pytest.raises(DriftError, match="the content of chat_template has changed"):
        run(source, policy=policy, chat_template=str(tmp_path / "there" / "chat.jinja"))


def test_what_a_kill_after_the_commit_left_goes(tmp_path: Path, run: Select) -> None:
    source = number_table(tmp_path / "a.parquet")
    run(source)
    left = tmp_path / "out" / ".run" / ".work" / "output"
    left.mkdir(parents=True)
    assert run(source).was_there
    assert not left.exists()


def test_what_a_kill_at_the_end_of_the_attempt_left_goes(tmp_path: Path, run: Select) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(8))
    run(source)
    half = tmp_path / "out" / ".run" / "attempts" / "0001" / ".tmp-end.json-0123abcd"
    half.write_text("{")
    assert run(source).was_there
    assert not half.exists()


def test_a_hub_model_is_taken_at_its_revision_and_its_commit_recorded(
    tmp_path: Path, tiny_world: Path, run: Select, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    commit = "0123456789" * 4
    asked: list[tuple[str, str | None]] = []
    folder = tmp_path / "hub" / "snapshots" / commit
    shutil.copytree(tiny_world / "policy", folder)

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    rows = [{name: value for name, value in row.items() if "logp" not in name} for row in text_rows(8)]
    source = write_rows(tmp_path / "a.jsonl", rows)
    outcome = run(source, policy="org/model", policy_revision="v2")
    assert asked == [("org/model", "v2")]
    assert outcome.summary["models"]["policy"]["revision"] == commit
    assert outcome.summary["models"]["policy"]["name"] == "org/model"
    assert commit in (tmp_path / "out" / "README.md").read_text()
    # the same commit under its own name is the same selection
    assert run(source, policy="org/model", policy_revision=commit).was_there
    with pytest.raises(
        ConfigError, match="`reward_model_revision` is the revision of `reward_model`, which is not set"
    ):
        run(source, policy="org/model", reward_model_revision="v2")


def test_a_keep_that_is_no_pair_is_refused_and_can_be_changed(
    tmp_path: Path, tiny_world: Path, run: Select, fakes: Fakes
) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(12, columns=False))
    flags = {"metric": "explicit_margin", "reward_model": str(tiny_world / "reward_model")}
    with pytest.raises(ConfigError, match=r"keep 0.01 of 12 ranked pairs keeps no pair"):
        run(source, keep=0.01, **flags)
    run(source, keep=0.1, **flags)
    assert len(fakes.scorer.seen) == 24
    assert len(kept(tmp_path / "out")) == 1


def test_the_differences_inside_a_section_are_named_one_by_one(tmp_path: Path, run: Select) -> None:
    rows = [{"prompt": f"q{n}", "responses": ["a", "b", "c"], "rewards": [0, 1, 2 + n]} for n in range(4)]
    source = write_rows(tmp_path / "a.jsonl", rows)
    run(source, metric="explicit_margin", pairs="best_worst", columns={"group": "prompt"})
    with pytest.raises(DriftError) as found:
        run(source, metric="explicit_margin", pairs={"build": "all", "min_gap": 0.5})
    lines = found.value.message.splitlines()[1:]
    assert [line.strip() for line in lines] == [
        'columns.group: "prompt" -> null', 'pairs.build: "best_worst" -> "all"', "pairs.min_gap: 0.0 -> 0.5",
    ]  # fmt: skip


def test_a_builder_that_is_another_one_at_so_few_responses_is_refused(tmp_path: Path, run: Select) -> None:
    rows = [{"prompt": f"q{n}", "responses": list("abcde"), "rewards": [0, 1, 2, 3, 4 + n]} for n in range(4)]
    source = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError, match=r"no prompt has more than 5 responses: .*sweet_spot takes 6 or more"):
        run(source, metric="explicit_margin", pairs="sweet_spot")
    rows[0]["responses"].append("f")
    rows[0]["rewards"].append(9)
    assert run(write_rows(source, rows), metric="explicit_margin", pairs="sweet_spot").summary["pair_building"]
