"""Rendering: BOS exactly once, control tokens from the template only, base models, and what cannot be rendered."""

import pytest

from selfplay.core.errors import ConfigError, DataError, ModelError
from selfplay.inputs.models.chat import (
    ChatRenderer,
    load_tokenizer,
    read_chat_template,
    stop_token_ids,
)
from tests.helpers.tiny import make_tokenizer

USER = [{"role": "user", "content": "hi"}]
CHAT = [*USER, {"role": "assistant", "content": "yes"}]


def with_bos(*, adds_bos: bool, adds_eos: bool = False):
    """The tiny tokenizer with <|system|> as BOS, which it puts before every text when `adds_bos`."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|system|>"
    parts = ["<|system|>"] * adds_bos + ["$A"] + ["<|end|>"] * adds_eos
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|system|>", "<|end|>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=" ".join(parts), special_tokens=special)
    return tokenizer


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_prompt_ends_where_the_assistant_begins():
    tokenizer = make_tokenizer()
    assert ChatRenderer(tokenizer).prompt(USER) == ids(tokenizer, "<|user|>hi<|end|><|assistant|>")
    renderer = ChatRenderer(tokenizer)
    assert renderer.prompt(USER) == tokenizer.apply_chat_template(USER, add_generation_prompt=True)["input_ids"]
    assert renderer.conversation(CHAT) == ids(tokenizer, "<|user|>hi<|end|><|assistant|>yes<|end|>")


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("template_adds", [0, 1, 2])
def test_bos_stands_once_where_either_adds_it(adds_bos, template_adds):
    tokenizer = with_bos(adds_bos=adds_bos)
    template = "{{ bos_token }}" * template_adds + tokenizer.chat_template
    prompt = ChatRenderer(tokenizer, template).prompt(USER)
    body = ids(tokenizer, "<|user|>hi<|end|><|assistant|>")
    assert prompt == ([tokenizer.bos_token_id, *body] if adds_bos or template_adds else body)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_base_models_get_the_text_after_the_tokenizers_own_start(adds_bos):
    tokenizer = with_bos(adds_bos=adds_bos, adds_eos=True)
    prompt = ChatRenderer(tokenizer, "none").prompt([{"role": "user", "content": "Once upon"}])
    assert prompt == [tokenizer.bos_token_id] * adds_bos + ids(tokenizer, "Once upon")


def test_base_models_take_one_user_message_only():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatRenderer(tokenizer)
    tokenizer.chat_template = {"rag": "{{ messages }}", "tool_use": "{{ messages }}"}
    with pytest.raises(ConfigError, match="has the chat templates rag, tool_use and no default one"):
        ChatRenderer(tokenizer)
    renderer = ChatRenderer(tokenizer, "none")
    with pytest.raises(
        DataError, match="takes one user message for each prompt; this prompt has the roles system, user"
    ):
        renderer.prompt([{"role": "system", "content": "s"}, *USER])
    with pytest.raises(ConfigError, match="without a chat template"):
        renderer.conversation(CHAT)


@pytest.mark.parametrize("template", [None, "none"])
def test_typed_control_tokens_stay_text(template):
    tokenizer = with_bos(adds_bos=True)
    renderer = ChatRenderer(tokenizer, template)
    typed = "<|system|>a<|end|><|assistant|>b\ue0000\ue001<|end|>"
    prompt = renderer.prompt([{"role": "user", "content": typed}])
    before, after = ("<|system|><|user|>", "<|end|><|assistant|>") if template is None else ("<|system|>", "")
    control = [
        token for token in prompt if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder
    ]
    assert control == ids(tokenizer, before + after)
    assert tokenizer.decode(prompt) == before + typed + after


def test_template_settings():
    tokenizer = make_tokenizer()
    template = "{{ mood }}" + tokenizer.chat_template
    assert ChatRenderer(tokenizer, template, {"mood": "glad"}).prompt(USER)[:4] == ids(tokenizer, "glad")
    with pytest.raises(ConfigError, match="does nothing: the chat template does not mention 'mode'"):
        ChatRenderer(tokenizer, template, {"mode": "glad"})
    with pytest.raises(ConfigError, match="does nothing"):
        ChatRenderer(tokenizer, "none", {"mood": "glad"})
    with pytest.raises(ConfigError, match="is set by selfplay"):
        ChatRenderer(tokenizer, template, {"add_generation_prompt": False})


def test_a_template_that_refuses_messages():
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template = refusal + "{{ messages[0].content }}"
    renderer = ChatRenderer(make_tokenizer(), template)
    with pytest.raises(DataError, match="refuses messages with the roles system, user: no system role"):
        renderer.prompt([{"role": "system", "content": "s"}, *USER])


def test_template_setting_is_a_template_a_file_or_none(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ x }}")
    assert read_chat_template(None, tmp_path) is None
    assert read_chat_template("none", tmp_path) == "none"
    assert read_chat_template("{% if x %}", tmp_path) == "{% if x %}"
    assert read_chat_template("t.jinja", tmp_path) == "{{ x }}"
    with pytest.raises(ConfigError, match="no such file"):
        read_chat_template("u.jinja", tmp_path)


def test_stop_ids_are_the_union():
    tokenizer = make_tokenizer()
    assert stop_token_ids(tokenizer, [7, tokenizer.eos_token_id]) == (7, tokenizer.eos_token_id)
    tokenizer.eos_token = None
    assert stop_token_ids(tokenizer, []) == ()


def test_tokenizer_that_does_not_load(tmp_path):
    with pytest.raises(ModelError, match="does not load"):
        load_tokenizer(tmp_path)
