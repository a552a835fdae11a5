"""Stage *score* and the gold judge: a user's Python function as a `Scorer`.

`module:function` or `path/to/file.py:function`. A module is looked for in the config's folder first, then on
sys.path. The function is called as f(prompt, response, **columns), one response at a time, or with the lists of one *unit*:
all responses to one prompt (`ScoreItem.unit`). What it raises, returns or does to what it is given in one call never touches
the rewards of another call. Nothing here imports torch.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfplay.core.errors import ConfigError
from selfplay.core.heartbeat import beat
from selfplay.core.protocols import ScoreItem
from selfplay.core.records import Message
from selfplay.core.redaction import redact, text_of
from selfplay.core.score_table import Outcome, finite, score_table
from selfplay.inputs.user_code import loading

NO_REWARD = "reward_none"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_MAX_MESSAGE = 200
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_WHAT = "reward function"


class RewardFunction:
    """A reward function. `prompt` is the user's text where the conversation is one user turn (a system prompt aside),
    however it was written in the source, else the list of messages; `response` is the text; of the prompt's other
    columns those that the function's signature names are passed by name, or all of them where it takes **kwargs.

    `batched`: called once for each unit, with lists (prompts, responses, each column as a list with None where a row lacks
    it), and expected to return as many rewards. The lists hold the whole unit in every call, so that a function may compare
    the responses of a list: shards, workers, a crash or a resume never change what is in one. A call that raises is not
    repeated with other lists; all rows of its unit have the reason. A reward is anything that is a number: bool and numpy
    scalars too; None says that there is none.

    Raises ConfigError when there is no such module or function or its signature cannot take (prompt, response).
    """

    def __init__(self, spec: str, search_path: str | Path, *, batched: bool = False) -> None:
        self._spec, self._batched = spec, batched
        self._function = loading.load_function(spec, search_path, what=_WHAT)
        self._columns = _Columns(spec, self._function)

    def check_columns(self, columns: Iterable[str], source: str = "the prompts") -> None:
        """Raise ConfigError when the function requires a parameter that is none of these columns: to be asked
        before a run. `source` is what has the columns, for the message."""
        self._columns.check(columns, source)

    def lacking(self, columns: Iterable[str]) -> list[str]:
        """The parameters that the function requires and that are none of these columns."""
        return self._columns.lacking(dict.fromkeys(columns))

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        """Columns response_id, reward, drop_reason, in the order of `items`: a reward or a drop_reason, never
        both.

        Reasons: "reward_error: TypeName: message" (one line), "reward_error: row has no column NAME",
        "reward_not_finite", "reward_none".
        """
        if self._batched:
            units = [list(unit) for _, unit in groupby(items, key=lambda item: item.unit)]
            return score_table(items, [outcome for unit in units for outcome in self._score_unit(unit)])
        return score_table(items, [self._score_one(item) for item in items])

    def _score_one(self, item: ScoreItem) -> Outcome:
        lacking = self._columns.lacking(item.columns)
        if lacking:
            return None, f"reward_error: row has no column {lacking[0]!r}"
        beat()
        try:
            value = self._function(_prompt(item), item.response, **self._columns.select(item.columns))
            return _outcome(value)
        except BaseException as error:  # whatever a user's function raises is this response's reason
            return None, _reason(error)

    def _score_unit(self, unit: Sequence[ScoreItem]) -> list[Outcome]:
        for item in unit:
            if lacking := self._columns.lacking(item.columns):
                return [(None, f"reward_error: row has no column {lacking[0]!r}")] * len(unit)
        beat()
        try:
            values = self._call_batch(unit)
        except BaseException as error:  # as in _score_one
            return [(None, _reason(error))] * len(unit)
        return [_outcome_or_reason(value) for value in values]

    def _call_batch(self, items: Sequence[ScoreItem]) -> list[Any]:
        selected = [self._columns.select(item.columns) for item in items]
        names = dict.fromkeys(name for columns in selected for name in columns)
        columns = {name: [columns.get(name) for columns in selected] for name in names}
        returned = self._function([_prompt(item) for item in items], [item.response for item in items], **columns)
        _check_not_async(returned)
        values = list(returned)
        if len(values) != len(items):
            raise ValueError(f"returned {len(values)} rewards for {len(items)} responses")
        return values


class _Columns:
    """Which of a row's columns a function takes, by its signature."""

    def __init__(self, spec: str, function: Callable[..., Any]) -> None:
        try:
            signature = inspect.signature(function)
        except ValueError as error:
            raise ConfigError(f"{spec}: {error}", "Wrap it in a function of your own.") from error
        parameters = list(signature.parameters.values())
        leading = [p for p in parameters if p.kind in _POSITIONAL][:2]
        takes_any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
        if len(leading) < 2 and not takes_any:
            raise ConfigError(
                f"the reward function {spec} takes {signature}",
                "It is called with the prompt and the response first: def reward(prompt, response, **columns).",
            )
        # A column that is called like one of the first two parameters cannot be passed beside them.
        self._taken = {p.name for p in leading}
        others = [
            p for p in parameters if p not in leading and p.kind in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
        ]
        positional_only = [p for p in others if p.kind is inspect.Parameter.POSITIONAL_ONLY]
        if positional_only:
            raise ConfigError(
                f"the reward function {spec} has the positional-only parameter {positional_only[0].name!r}",
                "Columns are passed by name: move the / behind the response.",
            )
        self._spec = spec
        self._all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self._named = {p.name for p in others}
        self._required = [p.name for p in others if p.default is inspect.Parameter.empty]

    def select(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Copies of the arguments, because the function may change them."""
        return {
            name: copy.deepcopy(value)
            for name, value in columns.items()
            if name not in self._taken and (self._all or name in self._named)
        }

    def lacking(self, columns: dict[str, Any]) -> list[str]:
        return [name for name in self._required if name not in columns]

    def check(self, columns: Iterable[str], source: str) -> None:
        names = sorted(columns)
        lacking = self.lacking(dict.fromkeys(names))
        if lacking:
            near = difflib.get_close_matches(lacking[0], names, 1)
            raise ConfigError(
                f"the reward function {self._spec} requires {lacking[0]!r}, which is not a column of {source}; "
                f"besides the prompt there are {', '.join(names) or 'no columns'}",
                (f"Did you mean {near[0]!r}? " if near else "")
                + "Rename the parameter, give it a default, or add the column to the prompts.",
            )


def _prompt(item: ScoreItem) -> str | list[Message]:
    turns = [message for message in item.messages if message["role"] != "system"]
    # copies: responses to one prompt share its messages, and a function may append its own
    return turns[0]["content"] if len(turns) == 1 else [Message(**message) for message in item.messages]


def _outcome(value: Any) -> Outcome:
    """The reward that a function returned. Raises TypeError for what is no number, OverflowError for what fits
    no float."""
    if value is None:
        return None, NO_REWARD
    _check_not_async(value)
    if not (hasattr(type(value), "__float__") or hasattr(type(value), "__index__")):
        raise TypeError(f"returned {value!r}, which is not a number")
    number = float(value)
    return finite(number)


def _outcome_or_reason(value: Any) -> Outcome:
    try:
        return _outcome(value)
    except BaseException as error:  # of a number of the user's own making
        return None, _reason(error)


def _check_not_async(returned: Any) -> None:
    """Raise TypeError for what has to be awaited: it holds no rewards yet."""
    if inspect.iscoroutine(returned):
        returned.close()  # otherwise Python warns that it was never awaited
    if inspect.isawaitable(returned) or inspect.isasyncgen(returned):
        raise TypeError(
            f"returned an awaitable ({type(returned).__name__}); run it inside the function, as with asyncio.run"
        )


def _heed(error: BaseException) -> None:
    """Raise what is not the function's own: an exit that was given more than its code is how Ray ends a process that was sent
    SIGTERM."""
    if isinstance(error, SystemExit) and vars(error):
        raise error


def _reason(error: BaseException) -> str:
    _heed(error)
    # an address of an object in memory differs in each process
    said = _ADDRESS.sub("", redact(" ".join(text_of(error).split())))
    return f"reward_error: {type(error).__name__}: {said}"[:_MAX_MESSAGE]
