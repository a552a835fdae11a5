"""The metric and the template as files of the user's own: what of their place belongs to a run's identity."""

from __future__ import annotations

import pytest

from selfplay.config.diff import changes, identity_document
from selfplay.config.named_files import identity_value
from tests.helpers.changed_settings import BASE, config


@pytest.mark.parametrize(
    ("setting", "value", "meaning"),
    [
        ("selection.metric", "alignment_potential", "alignment_potential"),
        ("selection.metric", "my.py:short", "my.py:short"),
        ("selection.metric", "/a/b/my.py:short", "my.py:short"),
        ("selection.metric", "pkg.my:short", "pkg.my:short"),
        ("policy.chat_template", "none", "none"),
        ("policy.chat_template", None, None),
        ("policy.chat_template", "/a/chat.jinja", "chat.jinja"),
        ("policy.chat_template", "{{ a/b }}", "{{ a/b }}"),
        ("policy.system_prompt", "a/b", "a/b"),
    ],
)
def test_of_a_file_its_name(setting: str, value: object, meaning: object) -> None:
    assert identity_value(setting, value) == meaning


@pytest.mark.parametrize(
    ("name", "before", "after", "tag"),
    [
        ("selection.metric", "a/my.py:short", "b/my.py:short", "content"),
        ("selection.metric", "a/my.py:short", "a/my.py:long", "identity"),
        ("selection.metric", "a/my.py:short", "a/other.py:short", "identity"),
        ("selection.metric", "random", "explicit_margin", "identity"),
        ("policy.chat_template", "a/chat.jinja", "b/chat.jinja", "content"),
        ("policy.chat_template", "a/chat.jinja", "{{ messages }}", "identity"),
        ("evaluation.gold", "a/my.py:gold", "b/my.py:gold", "content"),
        ("evaluation.gold", "a/my.py:gold", "a/my.py:silver", "identity"),
    ],
)
def test_a_file_may_move_and_another_function_is_another_one(name: str, before: str, after: str, tag: str) -> None:
    old, new = (config(BASE, **{name: value}) for value in (before, after))
    (change,) = changes(old, new)
    assert (change.name, change.tag) == (name, tag)
    assert (identity_document(old) == identity_document(new)) is (tag == "content")
