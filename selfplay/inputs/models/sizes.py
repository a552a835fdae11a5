"""Sizes of a model as transformers reads them: a published config.json leaves out what is its class's default, and a composite
model (text and vision) has them in the config of its text part.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfplay.core.errors import ModelError
from selfplay.core.memory import no_collections
from selfplay.inputs.models.files import read_json

# These number their positions from the padding token's id on, so that as many rows of the position table are never used:
# RoBERTa and its kind, as `create_position_ids_from_input_ids` in transformers.
_COUNT_FROM_PADDING = {
    *(
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "xmod",
        "longformer",
        "mpnet",
        "esm",
    ),
    *("data2vec-text", "ibert", "luke", "mluke", "lilt", "markuplm", "layoutlmv3"),
}
# Kinds of layers, as transformers calls them, that keep a state instead of the keys and values of all tokens, or beside them.
_RECURRENT = {"linear_attention", "hybrid", "hybrid_sliding", "conv", "mamba", "recurrent"}
_ONE_MORE_IN_WINDOW = {"cohere2", "cohere2_moe"}
# Larger numbers stand for "no limit" (tokenizers write 1e30).
_NO_LIMIT = 10**9


@no_collections()  # most of what it does is to import torch and transformers
def load_config(folder: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The config in a model's folder as transformers loads it. Of a kind of model that transformers does not know, without
    `trust_remote_code`, a plain config with what the file says: nothing of the folder is run. Raises ModelError."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

    document = read_json(Path(folder) / "config.json")
    is_foreign = "auto_map" in document and document.get("model_type") not in CONFIG_MAPPING
    try:
        if is_foreign and not trust_remote_code:
            return PreTrainedConfig.from_dict(document)
        if "auto_map" in document:
            return AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code, local_files_only=True)
        return copy.deepcopy(_known_config(str(folder), json.dumps(document)))
    # a config class validates its fields with an exception of its own, and may compute with what a field lacks
    except (StrictDataclassError, OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        lines = str(error).splitlines()
        raise ModelError(
            f"transformers cannot read {Path(folder) / 'config.json'}: {lines[0] if lines else type(error).__name__}",
            "Its model type may need a newer transformers, or trust_remote_code with a pinned revision.",
        ) from error


@functools.lru_cache(maxsize=16)
def _known_config(folder: str, document: str) -> Any:
    """The config of a class of transformers, by the content of its file. A preflight asks for each several times, and
    `from_pretrained` takes longest over a line of a log that nobody reads. It is not to be changed."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True)


def position_limit(config: Any) -> int | None:
    """The longest text in tokens for which the model of a transformers config has positions; None where it names no limit.

    With LongRoPE (Phi-3) it is the length of the original training: beyond it transformers changes the frequencies for all
    rows of a batch, and vLLM for all lengths, so that the same tokens would have different log-probs.
    """
    text = config.get_text_config()
    try:
        positions = getattr(text, "max_position_embeddings", None)  # ALiBi and T5 have none
    except NotImplementedError:  # and XLNet says so in this way
        return None
    if not isinstance(positions, int | float) or not 0 < positions < _NO_LIMIT:
        return None
    positions = min([positions, *_long_rope_lengths(text)])
    padding = getattr(text, "pad_token_id", None)  # a plain config has what its file names
    unused = padding + 1 if text.model_type in _COUNT_FROM_PADDING and padding is not None else 0
    return int(positions) - unused


def _long_rope_lengths(text: Any) -> Iterator[int]:
    """Original lengths of the LongRoPE settings of a config: one set, or one for each type of layer."""
    rope = getattr(text, "rope_parameters", None) or {}  # what models without rotary positions do not have
    for settings in (rope, *rope.values()):
        if isinstance(settings, dict) and settings.get("rope_type") == "longrope":
            yield int(settings.get("original_max_position_embeddings") or text.original_max_position_embeddings)


def tokenizer_limit(tokenizer: Any) -> int | None:
    """The longest text in tokens that a tokenizer names for its model; None where it names none."""
    limit = tokenizer.model_max_length
    return int(limit) if limit is not None and 0 < limit < _NO_LIMIT else None


def vocab_size(config: Any, folder: str | Path) -> int:
    """Rows of the embedding matrix by a transformers config. Raises ModelError where it names none."""
    size = getattr(config.get_text_config(), "vocab_size", None)  # what some kinds of models do not have
    if not isinstance(size, int):
        raise ModelError(f"{Path(folder) / 'config.json'} has no vocab_size", "Save the model with save_pretrained.")
    return size


def has_stray_kv_heads(config: Any) -> bool:
    """Whether a text config of transformers has a `num_key_value_heads` that its model does not read, as a GPT-NeoX may: it has a
    head of keys for each head of queries. vLLM would build its cache by the number all the same."""
    kind = type(config)
    return (
        kind.__module__.startswith("transformers.")  # a model's own code may read what its class does not declare
        and "num_key_value_heads" in vars(config)
        and not hasattr(kind, "num_key_value_heads")
        and "num_key_value_heads" not in kind.attribute_map
    )


def engine_overrides(config: Any) -> dict[str, Any]:
    """The settings of a transformers config that vLLM must be given otherwise, so that it computes what transformers does. A
    token of Cohere 2 sees `sliding_window` tokens in transformers, and one more in vLLM (models/commandr.py there)."""
    found: dict[str, Any] = {}
    if has_stray_kv_heads(config):
        found["num_key_value_heads"] = config.num_attention_heads
    if config.model_type in _ONE_MORE_IN_WINDOW and config.sliding_window:
        found["sliding_window"] = config.sliding_window - 1
    return found


def has_recurrent_layers(config: Any) -> bool:
    """Whether a model has recurrent layers (Mamba, linear attention, short convolutions), by its transformers config."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    return hasattr(text, "state_size") or not _RECURRENT.isdisjoint(kinds)
