from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from selfplay.core.errors import ModelError
from selfplay.inputs.models import chat_template, trial
from selfplay.inputs.models.trial import limit_broken, tried_renderer
from tests.helpers.tiny import make_tokenizer

MESSAGES = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(autouse=True)
def templates_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "limit_broken", limit_broken)


def never_ends() -> None:
    while True:
        pass


def raises() -> None:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("function", "broken"),
    [
        (lambda: None, None),
        (raises, None),
        (never_ends, "time"),
        (lambda: time.sleep(60), "time"),
        (lambda: "a" * (1 << 29), "memory"),
    ],
)
def test_limits_of_a_function(function: Callable[[], object], broken: str | None) -> None:
    assert limit_broken(function, 0.3 if broken == "time" else 30.0, 1 << 28) == broken


@pytest.mark.parametrize(
    "evil", ["10 ** (10**9)", "('%' ~ 10**9 ~ 'd') % 1", "'a' * 2 * 10**9", "'a'.ljust(2 * 10**9)"]
)
def test_one_long_call_of_a_template_is_stopped(evil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a single call into C, in which no exception arrives."""
    monkeypatch.setattr(chat_template, "SECONDS", 0.5)
    with pytest.raises(ModelError, match=r"policy\.model: the chat template (does not end|needs more than 1024 MiB)"):
        tried_renderer("policy.model", make_tokenizer(), MESSAGES + "{% set x = " + evil + " %}")


def test_an_ordinary_template_is_fast() -> None:
    renderer = tried_renderer("policy.model", make_tokenizer(), MESSAGES)
    assert renderer.prompt([{"role": "user", "content": "a"}]) == make_tokenizer().encode("a", add_special_tokens=False)
