"""Quick checks of model folders that load no weights: the driver runs them before it starts workers.

They read config.json (sizes as transformers reads them), the tokenizer's files and the headers of the safetensors files. Whether
the weights fit the architecture is asked in `loading_check`; what only a forward pass can show is left to the backends.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.core.errors import ModelError
from selfplay.inputs.models.chat_template import NAMED_HINT, without_default
from selfplay.inputs.models.files import TensorHeader, read_json, weight_headers
from selfplay.inputs.models.sizes import load_config, position_limit, vocab_size

# First part of the name of the score head's weights in the sequence-classification classes of transformers.
_HEAD_PREFIXES = ("score", "classifier", "classification_head", "logits_proj")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """Facts about a policy from its files. `num_params` counts tied embeddings once; `max_position_embeddings` is in
    tokens (None: the config names no limit).

    Example: PolicyInfo("LlamaForCausalLM", 451_072, "float32", 2048, 512, True, True)
    """

    architecture: str
    num_params: int
    dtype: str
    max_position_embeddings: int | None
    vocab_size: int
    tied: bool
    has_chat_template: bool


@dataclass(frozen=True, slots=True)
class RewardModelInfo:
    """Facts about a reward model from its files; `head` is the name of the score head's weight.

    Example: RewardModelInfo("LlamaForSequenceClassification", 451_200, "float32", 2048, "score.weight")
    """

    architecture: str
    num_params: int
    dtype: str
    max_position_embeddings: int | None
    head: str


def check_policy(folder: str | Path, *, chat_template_needed: bool = True) -> PolicyInfo:
    """Check a policy's folder without loading it: config, complete weights, tokenizer, chat template.

    `chat_template_needed=False` is for `chat_template: none` or a template given in the config. Raises
    ModelError.
    """
    folder = _existing(folder)
    config = read_json(folder / "config.json")
    architecture = _architecture(folder, config)
    if architecture.endswith("ForSequenceClassification"):
        raise ModelError(
            f"{folder} holds a {architecture}, which scores text and does not generate any",
            "policy.model must be a causal language model; a reward model goes under reward.model.",
        )
    tensors = weight_headers(folder)
    _check_tokenizer(folder)
    has_template, named = _chat_templates(folder)
    if chat_template_needed and not has_template:
        raise ModelError(
            f"the tokenizer in {folder} {without_default(named)}",
            NAMED_HINT
            if named
            else "For a base model set policy.chat_template: none; otherwise give a Jinja file as policy.chat_template.",
        )
    loaded = load_config(folder)
    heads = [name for name in tensors if name.endswith("lm_head.weight")]
    text = config.get("text_config") or config
    declared = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    tied = bool(declared) if declared is not None else not heads
    if tied:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in heads}
    generation_eos_ids(folder)  # raises for what is no token id
    return PolicyInfo(
        architecture=architecture,
        num_params=_num_params(tensors),
        dtype=_dtype(tensors),
        max_position_embeddings=position_limit(loaded),
        vocab_size=vocab_size(loaded, folder),
        tied=tied,
        has_chat_template=has_template,
    )


def check_reward_model(folder: str | Path, *, trust_remote_code: bool = False) -> RewardModelInfo:
    """Check a reward model's folder without loading it: a sequence-classification model with one label, its
    score head among the weights, a tokenizer with a chat template.

    With `trust_remote_code` and code of its own (`auto_map`) architecture and head have names that are not
    known here, so these two are left to the load. Raises ModelError.
    """
    folder = _existing(folder)
    config = read_json(folder / "config.json")
    architecture = _architecture(folder, config)
    own_code = trust_remote_code and "auto_map" in config
    if not own_code and not architecture.endswith("ForSequenceClassification"):
        raise ModelError(
            f"{folder} holds a {architecture}, not a sequence-classification model: it has no score head",
            "reward.model must be a ...ForSequenceClassification with one label, trained as a reward model.",
        )
    tensors = weight_headers(folder)
    head = _score_head(folder, architecture, tensors) if not own_code else ""
    labels = len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
    if labels != 1:
        raise ModelError(
            f"the reward model in {folder} has {labels} labels; a reward is one number",
            "Use a reward model with num_labels = 1, or wrap this one in a reward function.",
        )
    _check_tokenizer(folder)
    has_template, named = _chat_templates(folder)
    if not has_template:
        raise ModelError(
            f"the tokenizer of the reward model in {folder} {without_default(named)}",
            "Add the chat_template.jinja that the model was trained with, or wrap the model in a reward function.",
        )
    return RewardModelInfo(
        architecture=architecture,
        num_params=_num_params(tensors),
        dtype=_dtype(tensors),
        max_position_embeddings=position_limit(load_config(folder)),
        head=head,
    )


def generation_eos_ids(folder: str | Path) -> tuple[int, ...]:
    """End-of-sequence ids that generation stops at by the model's own files: generation_config.json's, and
    where it names none config.json's (transformers derives the one from the other). Nulls in a list are no ids.

    Raises ModelError for an id that is no whole number.
    """
    folder = Path(folder)
    for name in ("generation_config.json", "config.json"):
        config = read_json(folder / name) if name == "config.json" or (folder / name).is_file() else {}
        value = config.get("eos_token_id", (config.get("text_config") or {}).get("eos_token_id"))
        ids = [each for each in (value if isinstance(value, list) else [value]) if each is not None]
        if wrong := [each for each in ids if isinstance(each, bool) or not isinstance(each, int) or each < 0]:
            raise ModelError(
                f"eos_token_id in {folder / name} holds {wrong[0]!r}, which is not a token id",
                "Correct the file: eos_token_id is a whole number or a list of whole numbers.",
            )
        if ids:
            return tuple(ids)
    return ()


def _chat_templates(folder: Path) -> tuple[bool, list[str]]:
    """Whether the tokenizer's files carry a chat template that is used unless another one is named (chat_template.jinja, or in
    tokenizer_config.json); if not, the names of those that they carry."""
    path = folder / "tokenizer_config.json"
    own = read_json(path).get("chat_template") if path.is_file() else None
    if (folder / "chat_template.jinja").is_file() or (own and isinstance(own, str)):
        return True, []
    listed = [str(entry.get("name")) if isinstance(entry, dict) else str(entry) for entry in own or ()]
    names = sorted({*listed, *(file.stem for file in (folder / "additional_chat_templates").glob("*.jinja"))})
    return "default" in names, names


def _existing(folder: str | Path) -> Path:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ModelError(f"no such model folder: {folder}", "Check the path; it is relative to the config's folder.")
    return folder


def _architecture(folder: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        raise ModelError(f"{folder / 'config.json'} names no architecture", "Save the model with save_pretrained.")
    return str(names[0])


def _score_head(folder: Path, architecture: str, tensors: dict[str, TensorHeader]) -> str:
    """Name of the weight that maps to the label: of the head's matrices the last in the network, the one with
    the fewest rows."""
    matrices = [name for name in tensors if name.split(".")[0] in _HEAD_PREFIXES and len(tensors[name].shape) == 2]
    if not matrices:
        raise ModelError(
            f"the {architecture} in {folder} has no score head among its weights (expected a name like score.weight)",
            "transformers would use random numbers in its place, and every reward would be noise. Use the complete model.",
        )
    head = min(matrices, key=lambda name: tensors[name].shape[0])
    if tensors[head].shape[0] != 1:
        raise ModelError(
            f"the score head {head} in {folder} gives {tensors[head].shape[0]} numbers; a reward is one",
            "Use a reward model with num_labels = 1, or wrap this one in a reward function.",
        )
    return head


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{folder} has no tokenizer", "Save it there with tokenizer.save_pretrained.")


def _num_params(tensors: dict[str, TensorHeader]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def _dtype(tensors: dict[str, TensorHeader]) -> str:
    """The dtype most parameters are stored in, by torch's name."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += math.prod(tensor.shape)
    most = counts.most_common(1)[0][0]
    return names.get(most, most.lower())
