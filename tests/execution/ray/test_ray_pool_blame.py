"""Which of the calls that were lost with a worker is blamed for its crash: on a stand-in for Ray, whose answers always come too
late when the next call ends the worker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from selfplay.core.errors import BackendError
from selfplay.core.pool import BackendSpec, Call, WorkerCrash
from selfplay.execution.ray.ray_pool import RayPool


class Lost(Exception):
    """In the place of ray.exceptions.RayError."""


class Actor:
    """Dies in "die", with all answers that were not fetched before."""

    def __init__(self) -> None:
        self.asked: list[Answer] = []
        self.most = 0
        self.call = SimpleNamespace(remote=self.ask)

    def ask(self, method: str, args: tuple[str]) -> Answer:
        self.asked.append(Answer(self, args[0]))
        self.most = max(self.most, sum(not answer.is_fetched for answer in self.asked))
        return self.asked[-1]


class Answer:
    def __init__(self, actor: Actor, what: str) -> None:
        self.actor, self.what, self.is_fetched = actor, what, False


def wait(answers: Sequence[Answer], **_: Any) -> tuple[list[Answer], list[Answer]]:
    return list(answers[:1]), list(answers[1:])


def get(answer: Answer) -> str:
    if any(other.what == "die" and not other.is_fetched for other in answer.actor.asked):
        raise Lost("the actor died")
    answer.is_fetched = True
    return answer.what


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> list[Actor]:
    errors = SimpleNamespace(RayError=Lost, RayTaskError=ZeroDivisionError)
    stand_in = SimpleNamespace(wait=wait, get=get, cancel=lambda answer: None, exceptions=errors)
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    made: list[Actor] = []

    def create(pool: RayPool, index: int) -> Actor:
        made.append(Actor())
        return made[-1]

    monkeypatch.setattr(RayPool, "_create", create)
    monkeypatch.setattr(RayPool, "_await_start", lambda pool, indices: None)
    return made


def pool(folder: Path, retries: int = 2) -> RayPool:
    spec = BackendSpec("none:none")
    return RayPool(
        name="scorer", spec=spec, replicas=1, demand={}, env={}, log_folder=folder, retries=retries, start_timeout=1.0
    )


@pytest.mark.parametrize("order", [("good", "die", "good", "good"), ("die", "good"), ("good", "good", "good", "die")])
def test_an_answer_that_came_too_late_blames_nobody_else_for_ever(
    actors: list[Actor], tmp_path: Path, order: tuple[str, ...]
) -> None:
    (tmp_path / "scorer-0.log").write_text("these are my last words\n")
    results = dict(pool(tmp_path).map("score", [Call(key, (what,), 2) for key, what in enumerate(order)]))
    killed = WorkerCrash("the actor died", 2)
    assert results == {key: killed if what == "die" else what for key, what in enumerate(order)}
    (found,) = [result for result in results.values() if isinstance(result, WorkerCrash)]
    assert "scorer worker 0" in found.worker and "these are my last words" in found.worker
    assert str(tmp_path / "scorer-0.log") in found.worker


def test_bad_calls_in_turn_are_each_given_up_and_calls_without_a_bound_end_the_stage(
    actors: list[Actor], tmp_path: Path
) -> None:
    def ask(max_crashes: int | None) -> dict[int, Any]:
        order = (*["die"] * 20, "good")
        calls = [Call(key, (what,), max_crashes) for key, what in enumerate(order)]
        return dict(pool(tmp_path, retries=2).map("score", calls))

    # who asks counts them (execution/quarantine.py)
    found = ask(2)
    assert [isinstance(found[key], WorkerCrash) for key in sorted(found)] == [*[True] * 20, False]
    with pytest.raises(BackendError, match="scorer workers died 3 times in this stage"):
        ask(None)


def test_a_worker_has_two_calls_again_once_the_lost_ones_are_through(actors: list[Actor], tmp_path: Path) -> None:
    order = ("die", *["good"] * 9)
    dict(pool(tmp_path).map("score", [Call(key, (what,), 1) for key, what in enumerate(order)]))
    assert [actor.most for actor in actors] == [2, 2]


def test_of_a_log_of_any_size_the_last_words_are_short(actors: list[Actor], tmp_path: Path) -> None:
    (tmp_path / "scorer-0.log").write_text("x" * 3_000_000 + "\nlast\n")
    (result,) = dict(pool(tmp_path).map("score", [Call(0, ("die",), 1)])).values()
    assert result.worker.endswith("xxx\n    last") and len(result.worker) < 1000
