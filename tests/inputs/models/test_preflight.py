"""Checks of model folders before any device hour: what good folders say, and each way to be a bad one."""

import json
import shutil

import pytest

from selfplay.core.errors import ModelError
from selfplay.inputs.models.files import model_folder
from selfplay.inputs.models.preflight import check_policy, check_reward_model, generation_eos_ids
from tests.helpers.tiny import make_tiny_llama, make_tiny_reward_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    make_tiny_llama(root / "policy")
    make_tiny_llama(root / "tied", tied=True, dtype="bfloat16")
    make_tiny_reward_model(root / "reward")
    return root


@pytest.fixture
def folder(made, tmp_path):
    """Copies of the models that a test may break."""
    shutil.copytree(made, tmp_path / "models")
    return tmp_path / "models"


def edit_json(path, **changes):
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def test_what_a_policy_says(made):
    from transformers import AutoModelForCausalLM

    for name, dtype, tied in (("policy", "float32", False), ("tied", "bfloat16", True)):
        info = check_policy(made / name)
        model = AutoModelForCausalLM.from_pretrained(made / name)
        assert info.num_params == sum(p.numel() for p in model.parameters())
        assert (info.architecture, info.dtype, info.tied) == ("LlamaForCausalLM", dtype, tied)
        assert (info.max_position_embeddings, info.vocab_size) == (512, 320)
        assert info.has_chat_template


def test_what_a_reward_model_says(made):
    info = check_reward_model(made / "reward")
    assert (info.architecture, info.dtype, info.head) == ("LlamaForSequenceClassification", "float32", "score.weight")


def test_end_ids_are_those_of_the_generation_config_before_the_config(folder):
    edit_json(folder / "policy" / "generation_config.json", eos_token_id=[3, 257])
    assert generation_eos_ids(folder / "policy") == (3, 257)
    (folder / "policy" / "generation_config.json").unlink()
    edit_json(folder / "policy" / "config.json", eos_token_id=5)
    assert generation_eos_ids(folder / "policy") == (5,)
    edit_json(folder / "policy" / "config.json", eos_token_id=None)
    assert generation_eos_ids(folder / "policy") == ()


def test_shards_are_read_through_their_index(folder):
    from transformers import AutoModelForCausalLM

    whole = check_policy(folder / "policy")
    model = AutoModelForCausalLM.from_pretrained(folder / "policy")
    (folder / "policy" / "model.safetensors").unlink()
    model.save_pretrained(folder / "policy", max_shard_size="100KB")
    assert check_policy(folder / "policy") == whole
    shards = sorted((folder / "policy").glob("model-*.safetensors"))
    assert len(shards) > 2
    shutil.copy(shards[0], shards[1])
    with pytest.raises(ModelError, match="tensors that are not in their file"):
        check_policy(folder / "policy")
    shards[1].unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of \d+ weight files: model-00002"):
        check_policy(folder / "policy")


def drop_tensors(path, prefix, **more):
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(prefix)}
    save_file({**tensors, **more}, path, metadata={"format": "pt"})


def no_template(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(folder / "tokenizer_config.json", chat_template=...)


def named_templates(folder):
    no_template(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    edit_json(folder / "tokenizer_config.json", chat_template=[{"name": "tool_use", "template": "{{ messages }}"}])


def test_policies_that_are_refused(folder):
    cases = {
        "no such model folder": lambda f: shutil.rmtree(f),
        "has no config.json": lambda f: (f / "config.json").unlink(),
        "is not valid JSON": lambda f: (f / "config.json").write_text("{"),
        "is not a JSON object": lambda f: (f / "config.json").write_text("[]"),
        "names no architecture": lambda f: edit_json(f / "config.json", architectures=...),
        "holds no safetensors weights, only pickled": lambda f: (f / "model.safetensors").rename(f / "model.bin"),
        "holds no safetensors weights": lambda f: (f / "model.safetensors").unlink(),
        "its header describes": lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-1]
        ),
        "is truncated or not a safetensors file": lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 20),
        "has no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
        "has no chat template": no_template,
        "has the chat templates rag, tool_use and no default one": named_templates,
    }
    for message, spoil in cases.items():
        broken = folder / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(folder / "policy", broken)
        spoil(broken)
        with pytest.raises(ModelError, match=message) as caught:
            check_policy(broken)
        assert caught.value.hint
    with pytest.raises(ModelError, match="which scores text"):
        check_policy(folder / "reward")


def test_a_base_model_needs_no_template(folder):
    no_template(folder / "policy")
    assert not check_policy(folder / "policy", chat_template_needed=False).has_chat_template


def test_one_of_several_templates_may_be_the_default(folder):
    named_templates(folder / "policy")
    (folder / "policy" / "additional_chat_templates" / "rag.jinja").rename(folder / "policy" / "chat_template.jinja")
    assert check_policy(folder / "policy").has_chat_template


def test_reward_models_that_are_refused(folder):
    import torch

    weights = "model.safetensors"
    cases = {
        "has no score head": lambda f: drop_tensors(f / weights, "score"),
        "gives 2 numbers": lambda f: drop_tensors(f / weights, "score", **{"score.weight": torch.zeros(2, 64)}),
        "has 2 labels": lambda f: edit_json(f / "config.json", id2label={"0": "a", "1": "b"}),
        "not a sequence-classification model": lambda f: edit_json(
            f / "config.json", architectures=["LlamaForCausalLM"]
        ),
        "has no chat template": no_template,
        "has the chat templates rag, tool_use and no default one": named_templates,
    }
    for message, spoil in cases.items():
        broken = folder / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(folder / "reward", broken)
        spoil(broken)
        with pytest.raises(ModelError, match=message) as caught:
            check_reward_model(broken)
        assert caught.value.hint


def test_a_model_is_a_folder_or_a_hub_name(made, tmp_path, monkeypatch):
    assert model_folder(str(made / "policy")) == made / "policy"
    for missing in (str(tmp_path / "none"), "./none", "~/none/such", "a/b/c"):
        with pytest.raises(ModelError, match="no such model folder"):
            model_folder(missing)
    with pytest.raises(ModelError, match="revision 'main' is given for the folder"):
        model_folder(str(made / "policy"), "main")
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name, **settings):
        raise LocalEntryNotFoundError("not in the\ncache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match="could not be downloaded from the Hugging Face hub: not in the cache"):
        model_folder("org/model")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **settings: str(made / "policy"))
    assert model_folder("org/model", "abc") == made / "policy"
