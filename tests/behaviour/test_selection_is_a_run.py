"""What `selfplay select` wrote is looked at like a run of one round, and continued like one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import selfplay
from selfplay.cli.main import app
from selfplay.core.errors import BackendError, ConfigError, DriftError, Interrupted, SelfplayError
from selfplay.core.outcomes import SelectOutcome
from selfplay.core.stages import READ
from selfplay.dataset_selection import importing, pipeline
from selfplay.dataset_selection.settings import load_settings
from selfplay.execution.progress import Reporter
from selfplay.inspect.documents import selection
from selfplay.inspect.documents.show import show_document
from selfplay.inspect.reading import open_store, run_root, settings_for_others
from selfplay.inspect.verify.verify import verify_document
from selfplay.store.commits import remedy
from selfplay.store.run import Store
from selfplay.store.writer import StageWriter, shard_remedy
from tests.helpers.tables import Fakes, dropped, kept, number_table, text_rows, write_rows
from tests.helpers.viewing import client_of


def select(dataset: Path, out: Path, fakes: Fakes, **flags: Any) -> pipeline.Outcome:
    settings, _ = load_settings({"dataset": str(dataset), "out": str(out), "keep": 0.4, "shard_size": 4, **flags})
    return pipeline.run(settings, Reporter(io.StringIO()), workers=fakes)


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ready-made pairs with texts and numbers."""
    root = tmp_path_factory.mktemp("selected")
    rows = text_rows(30)
    rows[3]["rejected"] = rows[3]["chosen"]
    select(write_rows(root / "a.jsonl", rows), root / "out", Fakes())
    return root / "out"


def call(*arguments: Any) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_python_interface_opens_it(selected: Path) -> None:
    run = selfplay.open_run(selected)
    assert run.round_numbers == [1]
    best = kept(selected)
    found = run.pairs.where("kept").select("pair_id", "rank").to_arrow().to_pylist()
    assert found == [{"pair_id": row["pair_id"], "rank": row["rank"]} for row in best]
    assert run.responses.to_arrow().num_rows == 60
    assert run.rewards.to_arrow()["reward"].null_count == 0
    assert run.rounds.to_arrow()["num_kept"].to_pylist() == [12]
    assert run.status()["state"] == "complete"
    assert run.sql("select count(*) as n from pairs where not kept")["n"].to_pylist() == [18]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rounds",), "12"),
        (("show", "{out}", "1"), "identical_responses"),
        (("pairs", "{out}", "1", "--where", "kept"), "12"),
        (("sql", "{out}", "select count(*) as n from pairs"), "30"),
        (("diff", "{out}", "{out}"), ""),
        (("verify", "{out}", "--deep"), ""),
        (("report", "{out}", "--out", "{tmp}/report.html"), ""),
        (("export", "{out}", "--to", "{tmp}/exported"), ""),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_commands_take_it(selected: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    given = arguments if len(arguments) > 1 else (*arguments, "{out}")
    assert words in call(*(text.format(out=selected, tmp=tmp_path) for text in given))


def test_it_cannot_be_resumed_or_forked_as_a_run(selected: Path) -> None:
    for command in ("resume", "fork"):
        arguments = [command, str(selected), *(["--from-round", "1"] if command == "fork" else [])]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2
        assert "was written by `selfplay select`" in done.output


def test_one_pair_is_shown_with_its_responses(selected: Path) -> None:
    best = kept(selected)[0]
    document = selfplay.open_run(selected).pair(best["pair_id"])
    assert [response["use"] for response in document["responses"]] == ["chosen", "rejected"]
    assert document["responses"][0]["reward"] == best["reward_chosen"]
    assert document["responses"][1]["text"] == best["rejected"][0]["content"]


def test_a_table_of_numbers_has_its_pairs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    select(number_table(tmp_path / "a.parquet"), out, Fakes(), weight=0.0)
    run = selfplay.open_run(out)
    assert run.pairs.where("kept").to_arrow().num_rows == 20
    shown = call("show", out, "1")
    assert "num_kept                  20" in shown
    assert "not complete" not in shown
    assert "large round" not in shown
    assert "p0" in call("pairs", out, "1")
    content = call("pairs", out, "1", "--content", "--limit", "1")
    assert "-- chosen, reward" in content
    best = kept(out)[0]
    assert run.pair(best["pair_id"])["prompt"] is None
    assert "prompt" not in call("pair", out, best["pair_id"])
    call("report", out, "--out", tmp_path / "report.html")
    assert "<bdi>p000" in (tmp_path / "report.html").read_text(encoding="utf-8")
    status = run.status()
    assert [status["state"], status["rounds_done"], status["rounds_planned"]] == ["complete", 1, 1]
    assert run.rounds.to_arrow()["complete"].to_pylist() == [True]
    assert verify_document(out, deep=True)["ok"]
    page = client_of(out / ".run").get("/run/.run/round/1/pair", params={"id": best["pair_id"]})
    assert page.status_code == 200
    # a setting of 0 is one of those that the result depends on
    assert settings_for_others(open_store(out))["weight"] == 0.0
    for more in ([], ["--format", "jsonl"]):
        done = CliRunner().invoke(app, ["export", str(out), "--to", str(tmp_path / "exported"), *more])
        assert done.exit_code == 2
        assert "is a selection from a table of numbers" in done.output
        assert "out/kept" in done.output


@pytest.fixture(scope="module")
def of_shared_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ready-made pairs, two of a prompt and each of another topic, with rewards and nothing else."""
    root = tmp_path_factory.mktemp("shared")
    rows = text_rows(20)
    for at, row in enumerate(rows):
        row["prompt"] = rows[at - at % 2]["prompt"]
        for side in ("chosen", "rejected"):
            del row[f"num_tokens_{side}"], row[f"policy_logp_{side}"]
    select(write_rows(root / "a.jsonl", rows), root / "out", Fakes(), metric="explicit_margin", group_column="topic")
    return root / "out"


def test_pairs_that_share_a_prompt_have_their_own_groups(of_shared_prompts: Path) -> None:
    best = kept(of_shared_prompts)
    for by in (None, "topic"):
        diagnostics = show_document(open_store(of_shared_prompts), 1, by)["diagnostics"]
        shares = {share["group"]: share for share in diagnostics["groups"]["topic"]["shares"]}
        assert {name: share["num_pool"] for name, share in shares.items()} == {"maths": 10, "code": 10}
        for name, share in shares.items():
            assert share["num_kept"] == sum(row["group"] == name for row in best)


def test_the_groups_that_a_selection_recorded_are_shown(
    of_shared_prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the columns of prompts and responses say, and in whatever order they are."""
    store = open_store(of_shared_prompts)
    ids = sorted(store.table(1, "select", columns=["pair_id"])["pair_id"].to_pylist())
    read = pa.table({"pair_id": ids, "group": ["a", "b", "a", None] * 5})
    table, names = Store.table, selection.column_names

    def with_read(self: Store, number: int, stage: str, *more: Any, **options: Any) -> pa.Table:
        return read if selection.READ in more else table(self, number, stage, *more, **options)

    def with_names(store: Store, number: int, stage: str, *more: str) -> list[str]:
        return read.column_names if selection.READ in more else names(store, number, stage, *more)

    monkeypatch.setattr(Store, "table", with_read)
    monkeypatch.setattr(selection, "column_names", with_names)
    shares = show_document(store, 1)["diagnostics"]["groups"]["topic"]["shares"]
    assert {share["group"]: share["num_pool"] for share in shares} == {"a": 10, "b": 5, "(none)": 5}
    of_a = {pair_id for pair_id, group in zip(ids, read["group"].to_pylist(), strict=True) if group == "a"}
    num_kept = sum(row["pair_id"] in of_a for row in kept(of_shared_prompts))
    assert next(share["num_kept"] for share in shares if share["group"] == "a") == num_kept


def test_one_row_a_response_has_groups(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"q{prompt}",
            "response": f"a{prompt}-{at}",
            "reward": at * prompt,
            "topic": ("maths", "code")[prompt % 2],
        }
        for prompt in range(1, 11)
        for at in range(3)
    ]
    out, source = tmp_path / "out", write_rows(tmp_path / "a.jsonl", rows)
    select(source, out, Fakes(), metric="explicit_margin", group_column="topic")
    assert "groups by topic: 2" in call("show", out, "1")
    call("report", out, "--out", tmp_path / "report.html")


def test_without_log_probs_and_numbers_of_tokens(of_shared_prompts: Path, tmp_path: Path) -> None:
    call("report", of_shared_prompts, "--out", tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the better response just the longer one" not in report
    assert "None tokens" not in report
    call("export", of_shared_prompts, "--to", tmp_path / "exported")
    exported = pq.read_table(tmp_path / "exported" / "round_001" / "kept", partitioning=None)
    assert exported["num_tokens_chosen"].null_count == exported.num_rows == len(kept(of_shared_prompts))
    best = kept(of_shared_prompts)[0]["pair_id"]
    pages = client_of(of_shared_prompts / ".run")
    page = pages.get("/run/.run/round/1/pair", params={"id": best})
    assert "All responses of this prompt" in page.text
    assert "<td>stop</td>" not in page.text
    for text in (call("pair", of_shared_prompts, best), call("pairs", of_shared_prompts, "1", "--content")):
        assert "good answer" in text
        assert " tokens" not in text
        assert "ended by" not in text


def test_the_other_pairs_of_a_prompt_are_shown(of_shared_prompts: Path) -> None:
    run = selfplay.open_run(of_shared_prompts)
    for row in kept(of_shared_prompts):
        others = run.pairs.where(f"prompt_id = '{row['prompt_id']}'").to_arrow()["pair_id"].to_pylist()
        found = [other["pair_id"] for other in run.pair(row["pair_id"])["other_pairs"]]
        assert len(found) == 1
        assert {row["pair_id"], *found} == set(others)


def test_its_settings_are_shown(of_shared_prompts: Path) -> None:
    assert "group_column: topic" in call("config", "show", of_shared_prompts)


@pytest.mark.parametrize("stage", ["score", "logprobs"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), BackendError("gone", "")])
def test_a_selection_that_ends_in_a_stage_is_continued(
    tmp_path: Path, tiny_world: Path, stage: str, error: BaseException
) -> None:
    fakes = Fakes()
    models = {"policy": str(tiny_world / "policy"), "reward_model": str(tiny_world / "reward_model")}
    source = write_rows(tmp_path / "a.jsonl", text_rows(10, columns=False))
    select(source, tmp_path / "whole", fakes, **models)
    asked = [list(fakes.scorer.seen), list(fakes.logprobs.seen)]
    fakes.scorer.seen.clear()
    fakes.logprobs.seen.clear()
    backend, name = (fakes.scorer, "score") if stage == "score" else (fakes.logprobs, "logprobs")
    real, calls = getattr(backend, name), []

    def ends(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        return real(*arguments)

    setattr(backend, name, ends)
    with pytest.raises((Interrupted, BackendError)):
        select(source, tmp_path / "out", fakes, **models)
    record = Store.open(run_root(tmp_path / "out"))
    assert not record.is_committed(1, stage)
    assert [document["end"]["outcome"] for document in record.attempt_documents()] == [
        "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    ]
    setattr(backend, name, real)
    select(source, tmp_path / "out", fakes, **models)
    assert [fakes.scorer.seen, fakes.logprobs.seen] == asked
    assert kept(tmp_path / "out") == kept(tmp_path / "whole")
    ends_of = [document["end"]["outcome"] for document in Store.open(run_root(tmp_path / "out")).attempt_documents()]
    assert ends_of[-1] == "complete"


def test_a_selection_that_ends_before_it_is_published_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_rows(tmp_path / "a.jsonl", text_rows(10)), tmp_path / "out"

    def ends(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.ResultWriter, "commit", ends)
        with pytest.raises(Interrupted, match="committed work is kept"):
            select(source, out, Fakes())
    assert Store.open(run_root(out)).is_committed(1, "select")
    assert not (out / "kept").exists()
    # the pairs are ranked and recorded: another cut is another selection
    with pytest.raises(DriftError, match=r"keep: 0.4 -> 0.5"):
        select(source, out, Fakes(), keep=0.5)
    select(source, out, Fakes())
    assert len(kept(out)) == 4


@pytest.mark.parametrize("step", ["import_prompts", "import_responses", "import_rewards"])
def test_a_selection_that_ends_while_it_imports_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    source, out = write_rows(tmp_path / "a.jsonl", text_rows(10)), tmp_path / "out"

    def ends(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importing, step, ends)
        with pytest.raises(Interrupted):
            select(source, out, Fakes())
    # nothing that took a model is lost, so that another cut continues it too
    select(source, out, Fakes(), keep=0.5)
    assert len(kept(out)) == 5


def test_a_command_that_is_refused_leaves_what_an_earlier_one_computed(tmp_path: Path, tiny_world: Path) -> None:
    fakes = Fakes()
    models = {"policy": str(tiny_world / "policy"), "reward_model": str(tiny_world / "reward_model")}
    source, out = write_rows(tmp_path / "a.jsonl", text_rows(10, columns=False)), tmp_path / "out"
    real = fakes.logprobs.logprobs

    def ends(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    fakes.logprobs.logprobs = ends  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        select(source, out, fakes, **models)
    fakes.logprobs.logprobs = real  # type: ignore[method-assign]
    scored = len(fakes.scorer.seen)
    with pytest.raises(ConfigError, match=r"needs .*policy_logp_chosen"):
        select(source, out, fakes, reward_model=models["reward_model"])
    assert Store.open(run_root(out)).is_committed(1, "score")
    select(source, out, fakes, **models)
    assert len(fakes.scorer.seen) == scored == 20
    # a new one that is refused leaves nothing
    with pytest.raises(ConfigError, match="needs"):
        select(source, tmp_path / "new", fakes, reward_model=models["reward_model"])
    assert not (tmp_path / "new").exists()


def test_the_ranked_pairs_of_another_cut_are_not_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_rows(tmp_path / "a.jsonl", text_rows(10)), tmp_path / "out"
    monkeypatch.setattr(pipeline, "_SHARD_PAIRS", 3)
    real, calls = StageWriter.write_shard, []

    def ends(writer: StageWriter, *arguments: Any) -> None:
        if writer.stage == "select":
            calls.append(arguments)
            if len(calls) == 3:
                raise KeyboardInterrupt
        real(writer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StageWriter, "write_shard", ends)
        with pytest.raises(Interrupted):
            select(source, out, Fakes())
    work = Store.open(run_root(out)).layout.stage_work(1, "select")
    assert (work / "part-00001.parquet").is_file()
    # one that is refused changes nothing
    with pytest.raises(ConfigError):
        select(source, out, Fakes(), metric="apl")
    assert (work / "part-00001.parquet").is_file()
    select(source, out, Fakes(), metric="explicit_margin", keep=0.5)
    table = Store.open(run_root(out)).table(1, "select")
    assert len(set(table["pair_id"].to_pylist())) == table.num_rows == 10
    assert table["pair_id"].to_pylist()[:5] == [row["pair_id"] for row in kept(out)]
    assert verify_document(out, deep=True)["ok"]


def test_the_ranked_pairs_of_the_same_selection_are_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_rows(tmp_path / "a.jsonl", text_rows(10)), tmp_path / "out"

    real = StageWriter.commit

    def ends(writer: StageWriter, *arguments: Any) -> Any:
        if writer.stage == "select":
            raise KeyboardInterrupt
        return real(writer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StageWriter, "commit", ends)
        with pytest.raises(Interrupted):
            select(source, out, Fakes())
    select(source, out, Fakes())
    assert Store.open(run_root(out)).outcome(1, SelectOutcome).adopted_shards == 1


def test_each_pair_has_its_own_group(tmp_path: Path) -> None:
    rows = text_rows(10)
    for row in rows:
        row["prompt"] = rows[0]["prompt"]
    del rows[4]["topic"]
    source, out = write_rows(tmp_path / "a.jsonl", rows), tmp_path / "out"
    select(source, out, Fakes(), group_column="topic")
    store = Store.open(run_root(out))
    assert store.table(1, "prompts").num_rows == 1
    read = store.table(1, "select", READ)
    assert read.schema.field("group").type == pa.string()
    groups = {row["pair_id"]: row["group"] for row in [*kept(out), *dropped(out)]}
    assert {row["pair_id"]: row["group"] for row in read.to_pylist()} == groups
    assert read["pair_id"].to_pylist() == store.table(1, "select")["pair_id"].to_pylist()
    assert {"maths", "code"} <= {*groups.values()}
    assert verify_document(out, deep=True)["ok"]


def test_remedies_name_the_command_that_continues_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = "give the same `selfplay select` command again: the stage is made again."
    source, out = write_rows(tmp_path / "a.jsonl", text_rows(10)), tmp_path / "out"

    def ends(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StageWriter, "commit", ends)
        with pytest.raises(Interrupted):
            select(source, out, Fakes())
    store = Store.open(run_root(out))
    with pytest.raises(SelfplayError, match="not committed") as found:
        store.table(1, "prompts")
    assert "selfplay resume" not in found.value.hint
    assert "the same `selfplay select` command continues it" in found.value.hint
    (sidecar,) = store.layout.stage_work(1, "prompts").glob(".part-*.json")
    assert shard_remedy(sidecar).endswith(
        "give the same `selfplay select` command again: that shard will be made again."
    )
    folder = store.layout.stage(1, "prompts")
    assert remedy(folder).endswith(f"or remove {folder} and the later stages beside it and {again}")
    select(source, out, Fakes())
    assert remedy(folder).endswith(f"or remove {out} and {again}")
    assert remedy(tmp_path / "run" / "rounds" / "001" / "prompts").endswith("and resume: the stage is made again.")
