"""Code of a model in the process of the command: it ends nothing in silence, and stdout stays data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from selfplay.core.errors import DataError, ModelError
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.inputs.models.trial import tried_renderer
from selfplay.inputs.user_code.exits import model_code
from tests.helpers.tiny import make_tokenizer


class Panic(BaseException):
    """As bindings of Rust raise it."""


def panic() -> None:
    raise Panic("at the disco")


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (lambda: os._exit(0), "SystemExit: 0"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (panic, "Panic: at the disco"),
        (lambda: {}["x"], "KeyError: 'x'"),
    ],
)
def test_whatever_a_models_own_code_raises_is_said(fail: Callable[[], object], said: str) -> None:
    real = os._exit
    expected = pytest.raises(ModelError, match=rf"^reward\.model: the model's own code fails: {said}")
    with expected, model_code("reward.model", runs=True):
        fail()
    assert os._exit is real


def test_a_stop_and_our_own_errors_pass(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (KeyboardInterrupt(), DataError("no", "yes")):
        with pytest.raises(type(error)), model_code("policy.model", runs=True):
            raise error
    with pytest.raises(KeyError), model_code("policy.model", runs=False):  # then it is a fault of ours
        raise KeyError("x")
    with model_code("policy.model", runs=True):
        print("loaded")
    assert capsys.readouterr() == ("", "loaded\n")


def test_a_tokenizer_that_fails_later_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage *prompts* renders in the process of the command, long after the checks."""
    renderer = tried_renderer("policy.model", make_tokenizer(), own_code=True)
    messages = [{"role": "user", "content": "hi"}]
    assert renderer.prompt(messages)
    monkeypatch.setattr(ChatRenderer, "_one_bos", lambda *_: os._exit(0))
    for render in (renderer.prompt, renderer.conversation):
        with pytest.raises(ModelError, match=r"policy\.model: the model's own code fails: SystemExit: 0"):
            render(messages)
