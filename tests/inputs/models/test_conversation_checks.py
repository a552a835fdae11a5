"""What loses the text of real prompts is refused with the example; what concerns some prompts only is a warning."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from selfplay.core.errors import ModelError
from selfplay.inputs.models.chat import ChatRenderer, load_tokenizer
from selfplay.inputs.models.conversation_checks import ConversationCheck
from selfplay.inputs.models.example_prompts import Example, example_prompts
from tests.helpers.tiny import CHAT_TEMPLATE, make_tokenizer

USER, SYSTEM = {"role": "user", "content": "Say a few words."}, {"role": "system", "content": "Be brief."}
TURNS = [USER, {"role": "assistant", "content": "<think>hm</think>Words."}, {"role": "user", "content": "More."}]
EXAMPLES = [Example("the first", [USER]), Example("with system", [SYSTEM, USER]), Example("turns", TURNS)]


def check(template: str | None = None, tokenizer=None, vocab_size: int | None = None) -> ConversationCheck:
    tokenizer = tokenizer or make_tokenizer()
    folder = Path(tokenizer.name_or_path) if tokenizer.name_or_path else None
    return ConversationCheck("policy.model", ChatRenderer(tokenizer, template), vocab_size, folder)


def test_examples_are_of_each_kind():
    rows = [[USER], [SYSTEM, USER], [{**USER, "content": "x" * 99}], TURNS, [USER, USER]]
    table = pa.table({"messages": rows, "row": [3, 4, 5, 6, 7]})
    found = example_prompts({"a.jsonl": table, "b": pa.table({"messages": [[USER]]}), "none": table.slice(0, 0)})
    assert [example.what for example in found] == [
        "the first prompt of a.jsonl, row 3",
        "the first prompt with a system message of a.jsonl, row 4",
        "the longest prompt of a.jsonl, row 5",
        "the prompt with the most turns of a.jsonl, row 6",
        "the first prompt of b",
    ]
    assert found[3].messages == TURNS


@pytest.mark.parametrize(
    "template", [None, CHAT_TEMPLATE.replace("m['content']", "m['content'].split('</think>')[-1]")]
)
def test_what_is_right_has_no_warnings(template):
    assert list(check(template, vocab_size=300).prompts(EXAMPLES)) == []
    assert list(check(template, vocab_size=300).conversations(EXAMPLES)) == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}",
            "system message",
        ),
        (
            "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor %}x",
            "user message",
        ),
        ("{{ messages[-1]['content'] }}", "system message"),
        ("{% for m in messages %}{{ m['content'] | upper | replace('S', '') }}{% endfor %}", "user message"),
        ("{{ messages[0]['content'] + 1 }}", "fails in line 1"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ raise_exception('never') }}", "refuses .* never"),
    ],
)
def test_templates_that_lose_text_are_refused(template, message):
    with pytest.raises(ModelError, match=message) as error:
        list(check(template).prompts(EXAMPLES))
    assert error.value.message.startswith("policy.model: ") and error.value.exit_code == 2 and error.value.hint


def test_a_normalizer_that_changes_texts_is_named():
    from tokenizers import normalizers

    tokenizer = make_tokenizer()
    for normalizer, said in (
        (normalizers.Lowercase(), []),  # upper and lower case are the model's own matter
        (
            normalizers.Replace("w", "v"),
            ["policy.model: the tokenizer's normalizer changes texts (the first): of 'few' it makes 'fev'"],
        ),
    ):
        tokenizer.backend_tokenizer.normalizer = normalizer
        assert [*check(tokenizer=tokenizer).prompts(EXAMPLES)] == said


def test_a_template_that_refuses_some_prompts_has_a_warning():
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
    (warning,) = check(template).prompts(EXAMPLES)
    assert "no system (with system): such prompts are dropped" in warning
    (warning,) = check(template).conversations(EXAMPLES)
    assert "such responses have no reward" in warning


def test_a_reward_model_must_read_question_and_answer():
    answer_only = "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(ModelError, match="leaves out the user message"):
        list(check(answer_only).conversations(EXAMPLES))
    question_only = answer_only.replace("'assistant'", "'user'")
    with pytest.raises(ModelError, match="leaves out the assistant message"):
        list(check(question_only).conversations(EXAMPLES))
    no_system = (
        "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] + m['content'] }}{% endif %}{% endfor %}"
    )
    (warning,) = check(no_system).conversations(EXAMPLES)
    assert "leaves out the system message 'Be brief.' (with system): the rewards do not depend on it" in warning


def of_class(folder: Path, kind: str):
    make_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": kind}))
    return load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["LlamaTokenizerFast", "ByT5Tokenizer"])
def test_a_class_that_does_not_fit_the_files(tmp_path, kind):
    with pytest.raises(ModelError, match=r"does not give back its own text: of 'Say a few words.' it makes"):
        list(check(CHAT_TEMPLATE, of_class(tmp_path, kind)).prompts(EXAMPLES))


@pytest.mark.parametrize("kind", ["GPT2TokenizerFast", "Qwen2TokenizerFast", "TokenizersBackend"])
def test_a_class_that_fits_the_files(tmp_path, kind):
    assert list(check(CHAT_TEMPLATE, of_class(tmp_path, kind)).prompts(EXAMPLES)) == []


def test_a_class_with_other_ids_for_the_same_text_is_said(tmp_path):
    tokenizer = of_class(tmp_path, "GPT2TokenizerFast")
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["model"] |= {"vocab": document["model"]["vocab"] | {"ay": 270}, "merges": [["a", "y"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    (warning,) = check(CHAT_TEMPLATE, tokenizer).prompts(EXAMPLES[:1])
    assert "(a GPT2Tokenizer) writes 'Say a few words.' with other token ids than its tokenizer.json" in warning


@pytest.mark.parametrize("kind", ["BertTokenizerFast", "T5TokenizerFast", "GemmaTokenizerFast"])
def test_a_class_that_fails_is_refused(tmp_path, kind):
    with pytest.raises(ModelError, match=r"does not load|cannot encode"):
        list(check(CHAT_TEMPLATE, of_class(tmp_path, kind)).prompts(EXAMPLES))


def test_unknown_characters_are_said_and_many_are_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["Say", "a", "few", "words", ".", "Be", "brief", "<think>hm</think>Words", "More", "qzvjk", "x"]
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*dict.fromkeys(words), "[UNK]"])}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(".", "isolated")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    (unmarked,) = check(template, tokenizer).prompts([Example("e", [USER])])
    assert unmarked.endswith("does not mark who speaks: it writes ' ' between all turns")
    long = {"role": "user", "content": "Say a few words . " * 4 + "été"}
    _, warning = check(template, tokenizer).prompts([Example("e", [long])])
    assert "1 of the 21 tokens" in warning
    with pytest.raises(ModelError, match="1 of the 2 tokens of 'Say été' are unknown"):
        list(check(template, tokenizer).prompts([Example("e", [{"role": "user", "content": "Say été"}])]))


def test_ids_that_the_model_does_not_have():
    with pytest.raises(ModelError, match="the tokenizer writes the token id 260, but the model has 200"):
        list(check(vocab_size=200).prompts(EXAMPLES))
