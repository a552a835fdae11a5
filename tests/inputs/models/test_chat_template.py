"""Templates that read parts, that leave roles out, and that fail: always a DataError with the reason."""

import pytest

from selfplay.core.errors import DataError
from selfplay.inputs.models import chat_template
from selfplay.inputs.models.chat_template import ChatTemplate, TemplateFailure
from tests.helpers.tiny import CHAT_TEMPLATE, make_tokenizer

USER = [{"role": "user", "content": "hi"}]
SYSTEM = [{"role": "system", "content": "s"}, *USER]
PARTS = "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def of_roles(system: str, others: str) -> str:
    turn = "{% if m['role'] == 'system' %}" + system + "{% else %}" + others + "{% endif %}"
    return "{% for m in messages %}<|{{ m['role'] }}|>" + turn + "<|end|>{% endfor %}"


@pytest.mark.parametrize(
    ("source", "part_roles"),
    [
        (CHAT_TEMPLATE, set()),
        (of_roles(PARTS, PARTS), {"user", "system", "assistant"}),
        (of_roles("{{ m['content'] }}", PARTS), {"user", "assistant"}),
        (of_roles(PARTS, "{{ m['content'] }}"), {"system"}),
        (of_roles("{{ m['content'] }}", "{{ m['content'][0]['text'] + '' }}"), {"user", "assistant"}),
        ("{% for m in messages %}{% for c in m['content'] %}{{ c }}{% endfor %}{% endfor %}", set()),
    ],
)
def test_each_role_gets_its_content_in_the_form_that_the_template_reads(tokenizer, source, part_roles):
    template = ChatTemplate(tokenizer, source, {})
    assert (template.part_roles, template.left_out) == (part_roles, frozenset())
    text = template.render(SYSTEM, False)
    assert text in ("<|system|>s<|end|><|user|>hi<|end|>", "shi")


@pytest.mark.parametrize(
    ("source", "left_out"),
    [
        (of_roles("", "{{ m['content'] }}"), {"system"}),
        (of_roles("{{ m['content'] }}", ""), {"user", "assistant"}),
        ("{{ messages[-1]['content'] }}", {"system"}),
        ("nothing", {"system", "user", "assistant"}),
    ],
)
def test_roles_that_a_template_does_not_write(tokenizer, source, left_out):
    assert ChatTemplate(tokenizer, source, {}).left_out == left_out


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ messages[0]['content'] + 1 }}", "in line 1 .*TypeError: can only concatenate"),
        ("\n\n{{ tools | length }}", "in line 3 .*TypeError: object of type 'NoneType' has no len"),
        ("{{ messages[0].nowhere.at_all }}", "UndefinedError: .*has no attribute 'nowhere'"),
        ("{% for m in messages %}", "TemplateSyntaxError: Unexpected end of template"),
        ("{{ messages | no_such_filter }}", "TemplateAssertionError: No filter named 'no_such_filter'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{{ 'a' * 2000000 }}", "writes 2000000 characters"),
    ],
)
def test_a_template_that_fails(tokenizer, source, reason):
    with pytest.raises(TemplateFailure, match=reason) as error:
        ChatTemplate(tokenizer, source, {}).render(USER, True)
    assert "another chat_template" in error.value.hint


def test_a_template_that_does_not_end(tokenizer, monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", 0.1)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateFailure, match=r"does not end: 0.1 seconds"):
        ChatTemplate(tokenizer, endless, {}).render(USER, True)
    only_for_some = "{% if messages | length > 2 %}" + endless + "{% endif %}{{ messages[0]['content'] }}"
    template = ChatTemplate(tokenizer, only_for_some, {})
    assert template.render(USER, True) == "hi"
    with pytest.raises(TemplateFailure, match="roles user, user, user"):
        template.render(USER * 3, True)


def test_a_refusal_is_no_failure(tokenizer):
    template = ChatTemplate(tokenizer, "{{ raise_exception('not today') }}", {})
    with pytest.raises(DataError, match="refuses messages with the roles user: not today") as error:
        template.render(USER, True)
    assert not isinstance(error.value, TemplateFailure)
