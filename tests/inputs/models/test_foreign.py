"""A model's folder does not lead out of itself: neither by links nor by what its settings name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfplay.core.errors import ModelError
from selfplay.inputs.models.foreign import refuse_links, refuse_named_elsewhere


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md"):
        (root / name).write_text("{}")
    return root


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "modeling.py", "chat_template.jinja"])
def test_a_link_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    refuse_links(folder)
    (folder / name).unlink(missing_ok=True)
    (tmp_path / "elsewhere").write_text("{}")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=rf"{name} is a symbolic link"):
        refuse_links(folder)


def test_a_folder_of_templates_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="additional_chat_templates is a symbolic link"):
        refuse_links(folder)


def test_links_of_the_hubs_cache_and_of_the_folder_itself_are_its_own(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "hub/models--org--name/blobs"
    snapshot = tmp_path / "hub/models--org--name/snapshots/0"
    for place in (blobs, snapshot):
        place.mkdir(parents=True)
    (folder / "config.json").rename(blobs / "0123")
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    refuse_links(snapshot)
    (tmp_path / "latest").symlink_to(snapshot)
    refuse_links(tmp_path / "latest")


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": "somebody/kernels"},
        {"_attn_implementation": "somebody/kernels@main:attention"},
        {"_attn_implementation": "./kernels.py"},
        {"attn_implementation": {"": "eager", "text_config": "somebody/kernels"}},
        {"text_config": {"_attn_implementation_internal": "eager", "attn_implementation": "a/b"}},
        {"experts_implementation": "somebody/experts"},
        {"speculators_config": {"verifier": {"name_or_path": "somebody/model"}}},
        {"sub": [{"base_model_name_or_path": "somebody/model"}]},
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_code_or_a_model_elsewhere_is_refused(folder: Path, settings: dict[str, Any], name: str) -> None:
    (folder / name).write_text(json.dumps({"model_type": "llama", **settings}))
    with pytest.raises(ModelError, match=rf"{name} names (code elsewhere|another model)") as refused:
        refuse_named_elsewhere(folder)
    assert "Remove" in refused.value.hint


@pytest.mark.parametrize(
    "settings",
    [
        {"_attn_implementation": "sdpa"},
        {"attn_implementation": "flash_attention_2", "experts_implementation": "grouped_mm"},
        {"attn_implementation": None, "_name_or_path": "org/name", "tokenizer_class": "LlamaTokenizer"},
        {"auto_map": {"AutoConfig": "configuration.Mine"}, "base_model_name_or_path": ""},
    ],
)
def test_what_is_built_in_is_not(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(settings))
    refuse_named_elsewhere(folder)


def test_a_link_into_another_model_of_the_cache_is_refused(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "hub/models--org--private/blobs"
    blobs.mkdir(parents=True)
    (folder / "config.json").rename(blobs / "0123")
    (folder / "config.json").symlink_to(blobs / "0123")
    with pytest.raises(ModelError, match=r"config\.json is a symbolic link"):
        refuse_links(folder)
