"""Habits of chat templates: what is refused, what is said, and that ordinary templates have none."""

from __future__ import annotations

import pytest

from selfplay.core.errors import ModelError
from selfplay.inputs.models.chat import ChatRenderer
from selfplay.inputs.models.template_habits import habits, refuse_lost_marks
from tests.helpers.tiny import CHAT_TEMPLATE, make_tokenizer

FRAME = (
    "{%% for m in messages %%}<|{{ m.role }}|>%s<|end|>{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|assistant|>{%% endif %%}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content }}<|end|>{% endif %}{% endfor %}"
)


def found(template: str, *, for_prompts: bool = True) -> list[str]:
    return list(habits("policy.model", ChatRenderer(make_tokenizer(), template), for_prompts=for_prompts))


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, FRAME % "{{ m.content }}", MISTRAL])
def test_ordinary_templates_have_none(template: str) -> None:
    assert found(template) == []


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (FRAME % "{{ m.content | e }}", "changes texts"),
        (FRAME % "{{ m.content | lower }}", "changes texts"),
        (FRAME % "{{ m.content | replace('\\n', ' ') }}", "changes texts"),
        (FRAME % "{{ m.content }}{{ m.content }}", "writes a message several times"),
        (FRAME % "{{ m.content[:4000] }}", "cuts long messages"),
        (FRAME % "{{ m.content | truncate(900) if m.role == 'assistant' else m.content }}", "cuts long messages"),
        ("{{ strftime_now('%d %b %Y') }}" + FRAME % "{{ m.content }}", "writes today's date"),
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}",
            "does not end where the answer begins: the chat template leaves out '<|assistant|>'",
        ),
        (
            "{% for m in messages %}{{ m.content }}\n{% endfor %}",
            "does not mark who speaks: it writes '\\n' between all turns",
        ),
        (
            (FRAME % "{{ m.content }}").replace("}<|assistant|>", "}### Answer:"),
            "a prompt ends with '<|end|>### Answer:', but the chat template begins an answer in a dialogue with "
            "'<|end|><|assistant|>'",
        ),
    ],
)
def test_what_is_said(template: str, said: str) -> None:
    (line,) = found(template)
    assert line.startswith("policy.model: ") and said in line


def test_a_day_that_is_given_is_no_date_of_today() -> None:
    source = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}" + FRAME % "{{ m.content }}"
    assert "date_string fixes the day" in found(source)[0]
    renderer = ChatRenderer(make_tokenizer(), source, {"date_string": "26 Jul 2024"})
    assert list(habits("policy.model", renderer, for_prompts=True)) == []


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ range(100000) | random }}" + FRAME % "{{ m.content }}", "in different ways"),
        ((FRAME % "{{ m.content }}").replace("in messages", "in messages | reverse"), "in another order"),
    ],
)
def test_what_is_refused(template: str, said: str) -> None:
    for for_prompts in (True, False):
        with pytest.raises(ModelError, match=said):
            found(template, for_prompts=for_prompts)


@pytest.mark.parametrize("closed", ["<think>\\n\\n</think>", "<think></think>", ""])
def test_a_thought_that_the_prompt_opens_may_be_closed_or_left_out_in_a_dialogue(closed: str) -> None:
    opened = FRAME % f"{{{{ '{closed}' if m.role == 'assistant' }}}}{{{{ m.content }}}}"
    assert found(opened.replace("}<|assistant|>", "}<|assistant|><think>\n")) == []


def test_a_template_that_refuses_the_messages_is_not_looked_at() -> None:
    assert found("{{ raise_exception('no') }}") == []


def test_control_tokens_that_the_tokenizer_splits_are_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.split_special_tokens = True
    with pytest.raises(
        ModelError, match=r"writes '<\|\w+\|>', which is a control token, but the tokenizer makes ordinary text"
    ):
        refuse_lost_marks("policy.model", ChatRenderer(tokenizer, CHAT_TEMPLATE))
