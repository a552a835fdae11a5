"""Reward functions: how they are found and called, and what becomes of what they raise and return."""

import difflib
import hashlib
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selfplay.core.errors import ConfigError
from selfplay.core.protocols import ScoreItem
from selfplay.inputs.user_code.loading import source_digest
from selfplay.inputs.user_code.rewards import RewardFunction


def item(response: str, number: int = 0, unit: str | None = None, **columns) -> ScoreItem:
    unit = f"unit of {number}" if unit is None else unit
    return ScoreItem(f"r{number}", [{"role": "user", "content": "Q"}], response, columns=columns, unit=unit)


def make(folder: Path, code: str, name: str = "my_rewards", **settings) -> RewardFunction:
    (folder / f"{name}.py").write_text(code)
    return RewardFunction(f"{name}:reward", folder, **settings)


def outcomes(function: RewardFunction, items) -> list:
    table = function.score(items)
    assert table.column_names == ["response_id", "reward", "drop_reason"]
    assert table["response_id"].to_pylist() == [entry.response_id for entry in items]
    return list(zip(table["reward"].to_pylist(), table["drop_reason"].to_pylist(), strict=True))


def test_called_with_prompt_response_and_the_columns_it_names(tmp_path):
    function = make(tmp_path, "def reward(prompt, response, answer): return prompt == 'Q' and response == answer")
    items = [item("4", 0, answer="4", other=1), item("5", 1, answer="4", other=1)]
    assert outcomes(function, items) == [(1.0, None), (0.0, None)]


def test_kwargs_take_every_column_but_those_called_like_the_first_two(tmp_path):
    function = make(tmp_path, "def reward(prompt, response, **columns): return len(columns) + columns['b']")
    columns = {"a": 1, "b": 10, "prompt": "p", "response": "r"}
    asked = ScoreItem("r0", [{"role": "user", "content": "Q"}], "x", columns=columns)
    assert outcomes(function, [asked]) == [(12.0, None)]


def test_prompt_is_text_or_messages(tmp_path):
    function = make(tmp_path, "def reward(prompt, response): return 1 if isinstance(prompt, str) else -len(prompt)")
    user, system = {"role": "user", "content": "Q"}, {"role": "system", "content": "S"}
    items = [
        ScoreItem("a", [user], "x"),
        ScoreItem("b", [system, user], "x"),
        ScoreItem("c", [user, {"role": "assistant", "content": "A"}, user], "x"),
        ScoreItem("d", [{"role": "assistant", "content": "A"}, user], "x"),
    ]
    assert [reward for reward, _ in outcomes(function, items)] == [1.0, 1.0, -3.0, -2.0]


RETURNS = """
import numpy as np
VALUES = {"bool": True, "int": 3, "numpy": np.float32(0.5), "numpy bool": np.bool_(True), "zero-d": np.array(2.0),
    "nan": float("nan"), "inf": float("-inf"), "none": None, "text": "0.5", "list": [1.0], "huge": 10**400}
def reward(prompt, response):
    return VALUES[response] if response != "raise" else 1 / 0
def rewards(prompts, responses):
    return [reward(p, r) for p, r in zip(prompts, responses, strict=True)]
"""


@pytest.mark.parametrize("batched", [False, True])
def test_what_counts_as_a_reward(tmp_path, batched):
    (tmp_path / "returns.py").write_text(RETURNS)
    function = RewardFunction(f"returns:{'rewards' if batched else 'reward'}", tmp_path, batched=batched)
    expected = {
        "bool": (1.0, None),
        "int": (3.0, None),
        "numpy": (0.5, None),
        "numpy bool": (1.0, None),
        "zero-d": (2.0, None),
        "nan": (None, "reward_not_finite"),
        "inf": (None, "reward_not_finite"),
        "none": (None, "reward_none"),
        "text": (None, "reward_error: TypeError: returned '0.5', which is not a number"),
        "list": (None, "reward_error: TypeError: returned [1.0], which is not a number"),
        "huge": (None, "reward_error: OverflowError: int too large to convert to float"),
        "raise": (None, "reward_error: ZeroDivisionError: division by zero"),
    }
    items = [item(response, number) for number, response in enumerate(expected)]
    assert outcomes(function, items) == list(expected.values())


def test_messages_of_exceptions_are_one_short_line(tmp_path):
    function = make(tmp_path, "def reward(prompt, response): raise RuntimeError('a\\n b' * 500)")
    ((reward, reason),) = outcomes(function, [item("x")])
    assert reward is None and reason.startswith("reward_error: RuntimeError: a ba b") and len(reason) == 200


def test_messages_of_exceptions_have_no_addresses(tmp_path):
    function = make(tmp_path, "def reward(prompt, response): return object()")
    assert outcomes(function, [item("x")]) == [
        (None, "reward_error: TypeError: returned <object object>, which is not a number")
    ]


RAISES = """
import argparse, asyncio

class Mute(Exception):
    def __str__(self): raise KeyError("no text")

class Timeout(BaseException): pass

class MuteTimeout(Timeout):
    def __str__(self): raise Timeout

class Number:
    def __float__(self): raise LookupError("no number")

class Late:
    def __float__(self): raise Timeout("late")

async def judge(): return 1.0
async def judges(): yield 1.0

def reward(prompt, response):
    if response == "exit": argparse.ArgumentParser().parse_args(["--no-such-option"])
    if response == "cancelled": raise asyncio.CancelledError
    if response == "mute": raise Mute
    if response == "surrogate": raise ValueError("\\udc80")
    if response == "timeout": raise Timeout("took more than 2 s")
    if response == "mute timeout": raise MuteTimeout
    if response == "interrupt": raise KeyboardInterrupt
    if response == "close": raise GeneratorExit
    if response == "late": return Late()
    if response == "async": return judge()
    if response == "generator": return judges()
    return Number() if response == "number" else 1

def rewards(prompts, responses):
    return [reward(*row) for row in zip(prompts, responses)]
"""


@pytest.mark.parametrize("batched", [False, True])
def test_whatever_a_function_raises_is_its_rows_reason(tmp_path, batched):
    (tmp_path / "raises.py").write_text(RAISES)
    function = RewardFunction(f"raises:{'rewards' if batched else 'reward'}", tmp_path, batched=batched)
    expected = {
        "exit": (None, "reward_error: SystemExit: 2"),
        "cancelled": (None, "reward_error: CancelledError: "),
        "mute": (None, "reward_error: Mute: (its text could not be made: KeyError)"),
        "surrogate": (None, "reward_error: ValueError: \\udc80"),
        "timeout": (None, "reward_error: Timeout: took more than 2 s"),
        "mute timeout": (None, "reward_error: MuteTimeout: (its text could not be made: Timeout)"),
        "interrupt": (None, "reward_error: KeyboardInterrupt: "),
        "close": (None, "reward_error: GeneratorExit: "),
        "late": (None, "reward_error: Timeout: late"),
        "async": (
            None,
            "reward_error: TypeError: returned an awaitable (coroutine); run it inside the function, as with asyncio.run",
        ),
        "generator": (
            None,
            "reward_error: TypeError: returned an awaitable (async_generator); run it inside the function, as with asyncio.run",
        ),
        "number": (None, "reward_error: LookupError: no number"),
        "good": (1.0, None),
    }
    items = [item(response, number) for number, response in enumerate(expected)]
    assert outcomes(function, items) == list(expected.values())


@pytest.mark.parametrize("batched", [False, True])
def test_the_end_of_the_process_is_no_rows_reason(tmp_path, batched):
    code = """
def reward(prompt, response):
    ended = SystemExit(1)
    ended.ray_terminate_msg = "The process receives a SIGTERM."
    raise ended
"""
    with pytest.raises(SystemExit):
        make(tmp_path, code, batched=batched).score([item("a"), item("b", 1)])


@pytest.mark.parametrize("batched", [False, True])
def test_what_a_function_does_to_what_it_is_given_stays_with_its_row(tmp_path, batched):
    code = """
def reward(prompt, response, words):
    prompt.append({"role": "assistant", "content": response})
    prompt[0]["content"] += response
    words.append(response)
    if response == "bad": raise ValueError
    return 100 * len(prompt) + 10 * len(words) + len(prompt[0]["content"])

def rewards(prompts, responses, words):
    return [reward(*row) for row in zip(prompts, responses, words)]
"""
    (tmp_path / "changes.py").write_text(code)
    function = RewardFunction(f"changes:{'rewards' if batched else 'reward'}", tmp_path, batched=batched)
    # as in a shard: the responses to one prompt share its messages
    messages = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    items = [ScoreItem(name, messages, name, columns={"words": ["w"]}, unit=name) for name in ("a", "b", "bad", "c")]
    found = outcomes(function, items)
    assert [reward for reward, _ in found] == [425.0, 425.0, None, 425.0]


def test_batched_gets_the_lists_of_one_unit_after_the_other(tmp_path):
    code = """
CALLS = []
def reward(prompts, responses, answer, hint=None):
    CALLS.append((prompts, responses, answer, hint))
    return [len(r) for r in responses]
"""
    function = make(tmp_path, code, batched=True)
    items = [item("a", 0, "p", answer=1), item("bb", 1, "p", answer=2, hint="h"), item("ccc", 2, "q", answer=3)]
    assert outcomes(function, items) == [(1.0, None), (2.0, None), (3.0, None)]
    calls = function._function.__globals__["CALLS"]
    assert calls == [(["Q", "Q"], ["a", "bb"], [1, 2], [None, "h"]), (["Q"], ["ccc"], [3], None)]


COMPARES = """
CALLS = []
def reward(prompts, responses):
    CALLS.append(responses)
    if "raise" in responses:
        raise ConnectionError("judge timed out")
    return [len(r) - sum(map(len, responses)) / len(responses) for r in responses]
"""


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 9])
def test_a_unit_that_raises_has_the_reason_and_the_numbers_of_the_others_stay(tmp_path, cut):
    units = [("a", "bb", "cccc"), ("d", "raise"), ("e", "ff"), ("g",)]
    items = [
        item(text, 10 * place + number, f"prompt {place}")
        for place, unit in enumerate(units)
        for number, text in enumerate(unit)
    ]
    function = make(tmp_path, COMPARES, batched=True)
    # shards and halves hold whole units: however many of them, the lists are the same
    found = []
    for start in range(0, len(units), cut):
        part = [entry for entry in items if start <= int(entry.response_id[1:]) // 10 < start + cut]
        found += outcomes(function, part)
    reason = (None, "reward_error: ConnectionError: judge timed out")
    assert [reward for reward, _ in found[:3]] == pytest.approx([-4 / 3, -1 / 3, 5 / 3])
    assert found[3:] == [reason, reason, (-0.5, None), (0.5, None), (0.0, None)]
    assert function._function.__globals__["CALLS"] == [list(unit) for unit in units]


def test_a_unit_with_the_wrong_number_of_rewards_is_an_error_of_each_row(tmp_path):
    function = make(tmp_path, "def reward(prompts, responses): return [1.0, 2.0, 3.0]", batched=True)
    reason = (None, "reward_error: ValueError: returned 3 rewards for 2 responses")
    assert outcomes(function, [item("a", 0, "p"), item("b", 1, "p")]) == [reason] * 2


def test_a_unit_in_which_a_row_lacks_a_column_is_not_asked_without_it(tmp_path):
    function = make(tmp_path, "def reward(prompts, responses, answer): return [1.0] * len(responses)", batched=True)
    found = outcomes(function, [item("a", 0, "p", answer=1), item("b", 1, "p"), item("c", 2, "q", answer=1)])
    assert found == [(None, "reward_error: row has no column 'answer'")] * 2 + [(1.0, None)]


@pytest.mark.parametrize("batched", [False, True])
def test_a_row_that_lacks_a_required_column(tmp_path, batched):
    body = "[1.0 for _ in response]" if batched else "1.0"
    function = make(tmp_path, f"def reward(prompt, response, answer): return {body}", batched=batched)
    assert outcomes(function, [item("a", answer=1), item("b", 1)]) == [
        (1.0, None),
        (None, "reward_error: row has no column 'answer'"),
    ]


def test_a_required_column_that_no_row_has(tmp_path):
    function = make(tmp_path, "def reward(prompt, response, *, anwser): return 1.0")
    with pytest.raises(
        ConfigError,
        match=r"requires 'anwser', which is not a column of train.jsonl; besides the prompt there are answer, id",
    ) as e:
        function.check_columns(["id", "answer"], "train.jsonl")
    assert "Did you mean 'answer'?" in e.value.hint
    assert function.lacking(["id", "answer"]) == ["anwser"]
    assert function.lacking(["anwser"]) == []
    # a shard in which by chance no row has it: a reason for each, not the end of the run
    assert outcomes(function, [item("x", answer=1)]) == [(None, "reward_error: row has no column 'anwser'")]
    assert function.score([]).num_rows == 0


def test_the_configs_folder_comes_first_and_neighbours_import(tmp_path):
    for name, value in (("one", 1.0), ("two", 2.0)):
        folder = tmp_path / name
        folder.mkdir()
        # `json` is in the standard library too; the same name in two folders must not meet in sys.modules
        assert outcomes(make(folder, f"def reward(p, r): return {value}", "json"), [item("x")]) == [(value, None)]
    (tmp_path / "neighbour_of_reward.py").write_text("VALUE = 7")
    code = "def reward(p, r):\n    import neighbour_of_reward\n    return neighbour_of_reward.VALUE"
    assert outcomes(make(tmp_path, code), [item("x")]) == [(7.0, None)]


def test_files_packages_and_installed_modules(tmp_path):
    package = tmp_path / "reward_package_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text("SCALE = 3")
    (package / "final.py").write_text("from .base import SCALE\ndef reward(p, r): return SCALE")
    (package / "plain.py").write_text("def reward(p, r): return 5")
    for spec, value in {
        "reward_package_for_test.final:reward": 3.0,
        "reward_package_for_test/plain.py:reward": 5.0,
    }.items():
        assert outcomes(RewardFunction(spec, tmp_path), [item("x")]) == [(value, None)]
    assert outcomes(RewardFunction("difflib:get_close_matches", tmp_path), []) == []


def digest(spec: str, search_path: Path) -> str:
    return source_digest(spec, search_path, what="reward function")


def test_digest_is_of_the_file(tmp_path):
    make(tmp_path, "def reward(p, r): return 1")
    first = digest("my_rewards:reward", tmp_path)
    assert first == digest("my_rewards.py:reward", tmp_path) and len(first) == 64
    assert first == hashlib.sha256((tmp_path / "my_rewards.py").read_bytes()).hexdigest()
    make(tmp_path, "def reward(p, r): return 2")
    assert digest("my_rewards:reward", tmp_path) != first
    assert (
        digest("difflib:get_close_matches", tmp_path) == hashlib.sha256(Path(difflib.__file__).read_bytes()).hexdigest()
    )


def test_digest_covers_what_the_file_imports_from_beside_it(tmp_path):
    files = {
        "rewards/__init__.py": "",
        "rewards/final.py": "import json, helper\nfrom . import parts\nfrom .deep.scale import SCALE\n\n"
        "def reward(p, r):\n    import late.inside\n    return 1.0\n",
        "rewards/parts.py": "from rewards.more import *\nfrom ..nothing import at_all\n",
        "rewards/more.py": "import rewards.final\n",  # in a circle
        "rewards/deep/__init__.py": "A = 1",
        "rewards/deep/scale.py": "SCALE = 3\n",
        "helper.py": "def (:  # what does not parse imports nothing",
        "late/inside.py": "B = 1",
        "rewards/unused.py": "C = 1",
        "json_too.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    spec = "rewards.final:reward"
    first = digest(spec, tmp_path)
    covered = []
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n#")
        if digest(spec, tmp_path) != first:
            covered.append(name)
        (tmp_path / name).write_text(text)
    assert covered == [name for name in files if name not in ("rewards/unused.py", "json_too.py")]
    assert digest(spec, tmp_path) == first
    # the same files elsewhere are the same function
    shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert digest(spec, tmp_path.with_name(f"{tmp_path.name}-moved")) == first


def test_digest_of_a_file_in_another_folder_covers_both_folders(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/one.py").write_text("import near, far\ndef reward(p, r): return 1")
    for name in ("mine/near.py", "far.py"):
        (tmp_path / name).write_text("")
        before = digest("mine/one.py:reward", tmp_path)
        (tmp_path / name).write_text("VALUE = 2")
        assert digest("mine/one.py:reward", tmp_path) != before


@pytest.mark.parametrize(
    ("code", "spec", "message"),
    [
        ("", "my_rewards", "is not module:function"),
        ("", "no_such_module_here:reward", "no module 'no_such_module_here'"),
        ("", "nothing.py:reward", "no such file"),
        ("def rewards(p, r): pass", "my_rewards:reward", "has no function 'reward'; it has rewards"),
        ("reward = 3", "my_rewards:reward", "is no function"),
        ("async def reward(p, r): pass", "my_rewards:reward", "is an async function"),
        ("async def reward(p, r): yield", "my_rewards:reward", "is an async function"),
        (
            "import functools\nasync def f(x, p, r): pass\nreward = functools.partial(f, 1)",
            "my_rewards:reward",
            "is an async",
        ),
        (
            "class Judge:\n    async def __call__(self, p, r): pass\nreward = Judge()",
            "my_rewards:reward",
            "is an async",
        ),
        ("import sys\nsys.exit(0)", "my_rewards:reward", r"failed: SystemExit: 0 \(line 2 of .*my_rewards.py\)"),
        ("import os\nos._exit(0)", "my_rewards:reward", r"failed: SystemExit: 0 \(line 2 of .*my_rewards.py\)"),
        (
            "class Timeout(BaseException): pass\ndef late():\n    raise Timeout('late')\nlate()",
            "my_rewards:reward",
            r"failed: Timeout: late \(line 3 of .*my_rewards.py\)",
        ),
        ("import json\njson.loads('{')", "my_rewards:reward", r"JSONDecodeError: .* \(line 2 of .*my_rewards.py\)"),
        ("def reward(p): pass", "my_rewards:reward", r"takes \(p\)"),
        ("def reward(p, r, answer, /): pass", "my_rewards:reward", "positional-only parameter 'answer'"),
        ("import no_such_thing", "my_rewards:reward", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def reward(:", "my_rewards:reward", "SyntaxError"),
    ],
)
def test_errors_of_a_function_that_is_none(tmp_path, code, spec, message):
    (tmp_path / "my_rewards.py").write_text(code)
    with pytest.raises(ConfigError, match=message) as caught:
        RewardFunction(spec, tmp_path)
    assert caught.value.hint


def test_rewards_keep_their_value(tmp_path):
    function = make(tmp_path, "def reward(p, r): return float(r)")
    values = [0.1, -1e300, 5e-324, math.pi]
    assert [reward for reward, _ in outcomes(function, [item(repr(v)) for v in values])] == values


def test_needs_no_torch(tmp_path):
    make(tmp_path, "def reward(p, r): return 1.0")
    code = (
        "import sys; from selfplay.inputs.user_code.rewards import RewardFunction as F;"
        "F('my_rewards:reward', sys.argv[1]); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
