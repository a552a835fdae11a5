"""The user's own note of runs that were begun here."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfplay.core.errors import ConfigError
from selfplay.store.begun import code_begun, note_file, remember


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_what_is_noted_and_what_is_not() -> None:
    assert code_begun("one") is None
    assert remember("one", []) == "" and code_begun("one") == frozenset()
    assert remember("two", ["b", "a", "a"]) == "" and remember("two", ["c"]) == ""
    assert code_begun("two") == {"a", "b", "c"} and code_begun("one") == frozenset()
    assert code_begun("tw") is None


def test_the_note_is_private() -> None:
    remember("one", [])
    assert note_file().stat().st_mode & 0o777 == 0o600
    assert note_file().parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_a_note_that_others_can_write_is_not_believed(mode: int) -> None:
    remember("one", [])
    note_file().chmod(mode)
    with pytest.raises(ConfigError, match="can be written by others") as error:
        code_begun("one")
    assert "chmod 600" in error.value.hint


def test_lines_that_a_crash_left_are_passed_over() -> None:
    remember("one", ["a"])
    with note_file().open("ab") as file:
        file.write(b'{"run": "tw\n[]\n{"run": 1}\n\xff\n')
    remember("three", ["c"])
    assert code_begun("one") == {"a"} and code_begun("three") == {"c"} and code_begun("tw") is None


def test_a_link_in_the_place_of_the_note_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text('{"run": "one", "code": []}\n')
    note_file().parent.mkdir(parents=True)
    note_file().symlink_to(target)
    assert code_begun("one") is None
    assert "symbolic link" in remember("two", [])
    assert target.read_text() == '{"run": "one", "code": []}\n'


def test_a_user_without_a_writable_home_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert "file" in remember("one", []) and code_begun("one") is None


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):  # XDG: a path that is not absolute is ignored
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert note_file() == tmp_path / "home/.local/state/selfplay/begun.jsonl"
