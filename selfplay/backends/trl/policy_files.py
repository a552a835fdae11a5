"""How the trainer reads and writes policy folders (stage *train*): float32 weights in memory, complete Hugging Face folders on
disk.

Everything but weights and config is copied unchanged from the starting policy: the tokenizer, its chat template and the
generation config.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from selfplay.backends.policy_folder import read_policy_folder
from selfplay.backends.transformers.loading import load_complete
from selfplay.backends.trl.published_tensors import complete_tensors
from selfplay.core.timing import part

# A folder from the hub may hold more: model cards, other formats of the weights. Those are not the policy.
_COPIED_SUFFIXES = frozenset((".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"))
_TEMPLATES = "additional_chat_templates"
_MAX_SHARD = "5GB"


def load_policy(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The causal LM in `folder`, float32 whatever is on disk, on the CPU, dropout off, its own generation
    config set aside.

    Raises ModelError for a folder that is incomplete: transformers would fill missing weights with random
    numbers.
    """
    read_policy_folder(folder, trust_remote_code=trust_remote_code)
    model = load_complete(
        AutoModelForCausalLM, folder, torch.float32, "policy", trust_remote_code=trust_remote_code, for_training=True
    )
    # A published generation config may fail transformers' validation when it is saved; the file is copied as
    # it is instead.
    model.generation_config = GenerationConfig()
    return model


@part("writing")
def save_policy(model: Any, source: Path, folder: Path) -> None:
    """Write `model` in its dtype with everything else from `source`. `folder` must not exist yet."""
    folder.mkdir(parents=True)
    model.save_pretrained(folder, max_shard_size=_MAX_SHARD)
    complete_tensors(model, source, folder)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "generation_config.json").unlink(missing_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in _COPIED_SUFFIXES and not _is_weights_or_config(path.name):
            shutil.copyfile(path, folder / path.name)
    if (source / _TEMPLATES).is_dir():
        shutil.copytree(source / _TEMPLATES, folder / _TEMPLATES)


def _is_weights_or_config(name: str) -> bool:
    return name.startswith(".") or name.endswith(".index.json") or name in ("config.json", "adapter_config.json")
