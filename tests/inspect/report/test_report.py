"""The report of a run: what stands in it, that texts in it are texts, and that it names no person and no machine."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selfplay.cli.main import app
from selfplay.inspect.report import contents
from selfplay.inspect.report.contents import Report, gather
from selfplay.inspect.report.writing import html
from selfplay.selection.pairing import PairRules
from selfplay.store.durable import pretty_json
from selfplay.store.policy_removal import delete_policy
from selfplay.store.run import Store
from tests.helpers.make_run import HOSTILE, config, make_run
from tests.helpers.sealing import rewrite

SECTIONS = ["warnings", "lineage", "rounds", "questions", "details", "examples", "reproduce", "glossary"]
OF_THE_RUN = [
    "Does the reward rise on prompts that it never trained on?", "Does a judge that is never trained on agree?",
    "How often does it beat the starting policy?", "Do responses get longer?", "Is the chosen response the longer one?",
    "Do responses stay diverse?", "Does training learn its pairs?",
    "How many pairs does the policy rank correctly?", "Does each round see new prompts?", "Where does the time go?",
]  # fmt: skip
OF_A_ROUND = [
    "What became of the prompts and the responses?", "How are the rewards of the responses spread?",
    "Which pairs are worth the most?", "How different are the rewards of the two responses?",
    "Which response does the policy already prefer?",
    "Do the kept pairs tell the policy something new?", "Is the better response just the longer one?",
    "What did each stage spend its time on?",
]  # fmt: skip
GOLD = ("eval_gold_mean", "eval_gold_ci_low", "eval_gold_ci_high", "eval_gold_greedy_mean")
VOID = {"meta", "br", "hr", "img", "input", "link"}
EVIL = (
    HOSTILE + "<script>document.title = 'owned'</script><img src=x onerror=alert(1)></p></td></div>"
    "<svg onload=alert(1)>{{ 7 * 7 }}{% raw %}]]>--><!-- " + "\u202eabc" + " שלום עולם " + "x" * 100_000
)


class Page(HTMLParser):
    """Elements, ids and text of a page. What is opened must be closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def ids(self) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get("id"))]

    def headings(self, level: str) -> list[str]:
        return [attrs["id"] or "" for tag, attrs in self.tags if tag == level and "id" in attrs]


def page_of(store: Store, *, redact: bool = False) -> Page:
    return Page(html(gather(store, redact=redact)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run whose first prompt and response are hostile, with reasons of a user's function that quote a response."""
    quoted = "function_raised: ValueError: cannot judge '<script>secret answer</script>' of /home/alice/data/x.jsonl"
    bad = {"file": "/home/alice/data/train.jsonl", "row": 3, "reason": "no text: secret prompt"}
    fields: dict[tuple[int, str], dict[str, Any]] = {
        (1, "score"): {"drop_reasons": {quoted: 9, "reward_not_finite": 1}},
        (1, "prompts"): {"num_bad_rows": 2, "bad_rows": [bad]},
    }
    return make_run(tmp_path_factory.mktemp("hostile") / "run", text=EVIL, fields=fields)


def test_what_is_known_of_complete_rounds_is_not_gathered_again(
    whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, known = Store.open(whole_run), contents.Known()
    first = html(gather(store, known=known))
    monkeypatch.setattr(contents, "show_document", lambda *args, **more: pytest.fail("a complete round was read again"))
    assert html(gather(store, known=known)) == first


def test_the_page_has_its_sections_questions_and_pictures(whole_run: Path) -> None:
    report = gather(Store.open(whole_run))
    assert [figure.question for figure in report.figures] == OF_THE_RUN
    assert [detail.number for detail in report.details] == [2, 1]
    assert all([figure.question for figure in detail.figures] == OF_A_ROUND for detail in report.details)
    page = Page(html(report))
    assert page.headings("h2") == SECTIONS
    assert len(page.ids()) == len({*page.ids()})
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) == len(OF_THE_RUN) + 2 * len(OF_A_ROUND)
    assert all({*(attrs["aria-labelledby"] or "").split()} <= {*page.ids()} for attrs in pictures)
    for question in (*OF_THE_RUN, *OF_A_ROUND):
        assert question in page.text


def test_nothing_is_loaded_and_no_script_runs(hostile: Store) -> None:
    page = page_of(hostile)
    policy = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1 and policy[0] is not None
    assert policy[0].startswith("default-src 'none'; style-src 'unsafe-inline'") and "script" not in policy[0]
    assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object", "embed", "link", "form", "base"}
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "action", "formaction")]
        assert (attrs.get("href") or "#").startswith("#")


def test_hostile_texts_are_shown_as_text(hostile: Store) -> None:
    report = gather(hostile)
    # one of the examples, whatever the seed chose
    report.details[0].kept[0]["chosen"] = [{"role": "assistant", "content": EVIL}]
    page = Page(html(report))
    assert "<script>document.title = 'owned'</script><img src=x onerror=alert(1)></p></td></div>" in page.text
    assert "{{ 7 * 7 }}{% raw %}" in page.text
    assert not [c for c in page.text if ord(c) < 32 and c != "\n"] and "\u202e" not in page.text
    assert "U+202E" in page.text and "more characters]" in page.text
    assert len(html(report)) < 400_000


def test_redacted_it_holds_no_text_of_prompts_and_responses(tmp_path: Path, hostile: Store) -> None:
    store = make_run(tmp_path / "run", text="Confidential words", rounds=1)
    shown, redacted = page_of(store).text, page_of(store, redact=True).text
    written = re.compile(r"\banswer [\dp]|\bsay \d|Confidential")
    assert written.search(shown) and not written.search(redacted)
    page = page_of(hostile, redact=True)
    assert page.headings("h2") == [name for name in SECTIONS if name != "examples"]
    assert "secret" not in page.text and "function_raised (text left out)" in page.text
    assert "secret answer" in page_of(hostile).text


def test_no_person_and_no_machine_is_named(tmp_path: Path, hostile: Store) -> None:
    for page in (page_of(hostile), page_of(hostile, redact=True)):
        assert "alice" not in page.text and "/home" not in page.text and "/models" not in page.text
        assert str(hostile.layout.root.parent) not in page.text
    settings = config(1, PairRules())
    settings["policy"]["model"] = "/home/alice/models/tiny"
    settings["policy"]["system_prompt"] = "Be terse and secret."
    settings["cluster"]["address"] = "alice-workstation:6379"
    files = {
        "given.yaml": b"",
        "overrides.json": b'["policy.model=/home/alice/models/tiny", "policy.system_prompt=Be terse and secret."]',
        "pins.json": b'{"policy.model": "ab12"}', "resolved.json": pretty_json(settings),
        "search_path.json": b'"/home/alice"',
    }  # fmt: skip
    store = Store.create(tmp_path / "named", files)
    store.begin_attempt({"pid": 1, "host": "alice-workstation", "config": settings, "versions": {"selfplay": "0"}})
    page = page_of(store)
    assert "alice" not in page.text
    assert "Be terse and secret." in page.text and "secret" not in page_of(store, redact=True).text
    assert "model: tiny" in page.text and "policy.model=tiny" in page.text and "ab12" in page.text


def test_the_same_run_gives_the_same_page(whole_run: Path) -> None:
    store = Store.open(whole_run)
    assert html(gather(store)) == html(gather(store))


def test_warnings_come_first_and_once_a_name(tmp_path: Path) -> None:
    reasons = {"unused_reasons": {"zero_margin": 40}, "num_pairs": 2, "num_prompts_paired": 2}
    fields: dict[tuple[int, str], dict[str, Any]] = {(number, "pair"): reasons for number in (1, 2)}
    report = gather(make_run(tmp_path / "run", fields=fields))
    few = [warning for warning in report.warnings if warning["name"] == "few_pairs"]
    assert len(few) == 1 and [number for number, _ in few[0]["said"]] == [2, 1]
    text = html(report)
    assert text.index('id="warnings"') < text.index("zero_margin 40") < text.index('id="lineage"')


# ---------------------------------------------------------------------- runs of every kind


@pytest.mark.parametrize(
    "stop", [(0, "prompts"), (0, "evaluate"), (1, "prompts"), (1, "score"), (1, "select"), (2, "train")]
)
def test_a_run_under_way_has_a_report(tmp_path: Path, stop: tuple[int, str]) -> None:
    report = gather(make_run(tmp_path / "run", stop=stop, outcome=None))
    assert f"next is round {stop[0]} {stop[1]}" in report.state
    assert "no record of its end" in Page(html(report)).text


def test_a_skipped_round_and_a_run_without_gold(tmp_path: Path) -> None:
    nothing = {"eval_judge": "reward", **dict.fromkeys(GOLD)}
    skipped = {"skipped": True, "policy_round": 1, "policy_digest": "b" * 64, "steps": []}
    fields: dict[tuple[int, str], dict[str, Any]] = {(number, "evaluate"): nothing for number in range(3)}
    report = gather(make_run(tmp_path / "run", fields={**fields, (2, "train"): skipped}))
    assert "Does a judge that is never trained on agree?" not in [figure.question for figure in report.figures]
    policy = report.lineage["policies"][2]
    assert (policy["same_as"], policy["trained_from"]) == (1, None)
    page = Page(html(report))
    assert "not trained: as round 1" in page.text and "training skipped" in page.text
    assert "held-out gold" not in page.text


def test_a_policy_that_gc_took_and_one_of_another_run_are_told(run_copy: Path) -> None:
    store = Store.open(run_copy)
    forked_from = {
        "run": "ab" * 8,
        "root": "../other",
        "stages": {"001/train": store.digest_of(1, "train")},
    }
    rewrite(run_copy / "RUN.json", lambda identity: identity.update(forked_from=forked_from))
    delete_policy(store.layout, 2, "2026-01-02T03:04:05Z", "to make room")
    report = gather(Store.open(run_copy))
    assert [policy["files_removed"] for policy in report.lineage["policies"]] == [False, False, True]
    text = Page(html(report)).text
    assert f"Forked from run {'ab' * 8}, of which it took over 1 stages" in text
    assert "taken over" in text and "files removed by gc" in text


def test_old_rounds_are_in_the_tables_and_not_in_detail(whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "DETAILED", 1)
    report = gather(Store.open(whole_run))
    assert [row.round for row in report.rows] == [0, 1, 2]
    assert [detail.number for detail in report.details] == [2]
    assert "The newest 1 rounds" in Page(html(report)).text


# ---------------------------------------------------------------------- the command


def test_the_command_writes_into_the_run_or_where_it_is_told(run_copy: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(run_copy)])
    assert (done.exit_code, done.stdout) == (0, f"{run_copy / 'report.html'}\n")
    Page((run_copy / "report.html").read_text())
    readme = (run_copy / "README.md").read_text()
    assert "| 2 | 12 | 44 | 11 | 6 |" in readme and "complete: all of 2 rounds" in readme
    out = tmp_path / "elsewhere.html"
    done = CliRunner().invoke(app, ["report", str(run_copy), "--out", str(out), "--redact", "--json"])
    assert json.loads(done.stdout) == {
        "schema_version": 1, "report": str(out), "num_bytes": out.stat().st_size, "redacted": True, "rounds": [0, 1, 2],
        "num_warnings": len(gather(Store.open(run_copy)).warnings),
    }  # fmt: skip
    assert "left out" in Page(out.read_text()).text


def test_a_run_verifies_as_well_with_a_report_as_without(run_copy: Path) -> None:
    before = CliRunner().invoke(app, ["verify", str(run_copy), "--deep"])
    CliRunner().invoke(app, ["report", str(run_copy)])
    after = CliRunner().invoke(app, ["verify", str(run_copy), "--deep"])
    assert (run_copy / "report.html").is_file()
    assert (after.exit_code, after.stdout) == (before.exit_code, before.stdout)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2 and not (tmp_path / "report.html").exists()


def test_what_a_reader_wants_first_stands_first(whole_run: Path) -> None:
    report = gather(Store.open(whole_run))
    assert isinstance(report, Report) and report.name == "whole"
    names = [name for name, _, _ in report.facts]
    assert names[:3] == ["held-out gold reward", "held-out reward", "wins over round 0"]
    assert report.answers and {answer["round"] for answer in report.answers[0]["answers"]} == {0, 1, 2}
