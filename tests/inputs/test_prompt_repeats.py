"""Prompts that are the same to a reader: in one source, or in the training and the held-out one."""

import json
from pathlib import Path

import pytest

from selfplay.inputs.prompt_repeats import repeats
from selfplay.inputs.prompts import Prompts, load_prompts


def prompts(folder: Path, *texts: object) -> Prompts:
    (folder / "a.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return load_prompts("a.jsonl", "prompt", base_dir=folder).prompts


@pytest.mark.parametrize("same", ["Café au lait?", " CAFÉ  au\tlait?\n", "Cafe\u0301 au\u00a0lait?", "Ｃafé au lait?"])
def test_the_same_to_a_reader(tmp_path: Path, same: str) -> None:
    training = prompts(tmp_path, "one", "Café au lait?")
    found = [*repeats(training, prompts(tmp_path, "two", same))]
    assert len(found) == 1 and found[0].startswith("1 of the 2 prompts of evaluation.source are in prompts.source too")
    (again,) = repeats(prompts(tmp_path, "one", "Café au lait?", same, same), None)
    assert again.startswith("2 of the 4 prompts of prompts.source repeat an earlier one")


def test_other_prompts(tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    system = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a"}]
    training = prompts(tmp_path, "a", "a b", "ab", "a-b", turns, turns[:2] + turns[:1], system)
    assert [*repeats(training, prompts(tmp_path, "c", "b", "a b c"))] == []
    assert [*repeats(training, Prompts.none())] == [*repeats(training, None)] == []
    assert len([*repeats(training, prompts(tmp_path, turns, system))]) == 1
