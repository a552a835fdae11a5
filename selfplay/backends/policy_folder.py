"""Checks that a folder is a complete, finite policy of the expected architecture, before an engine or a trainer reads it.

Engines silently accept a missing tensor, another config or NaN, and a wrong shape leaves them unusable. So a policy folder is
validated first: its config, the tensors in its safetensors headers, and (read once, in pieces) their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.core.errors import ModelError
from selfplay.inputs.models.files import weight_headers
from selfplay.inputs.models.sizes import load_config

_CHUNK = 1 << 24  # elements looked at together: bounds the extra memory to 16 MiB
_SHOWN = 5

# Fields that change neither what a weight means nor its shape; versions of transformers and trainers rewrite them.
_NOT_ARCHITECTURE = {
    *("_name_or_path", "_attn_implementation_autoset", "transformers_version", "dtype", "torch_dtype", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "return_dict", "output_attentions", "output_hidden_states"),
    *("id2label", "label2id", "problem_type", "chunk_size_feed_forward"),
}
# Buffers that old checkpoints carry and newer writers leave out; they are computed from the config.
_COMPUTED = (".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")
_OUTPUT_EMBEDDING = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class PolicyFolder:
    """The contents of a policy folder: its architecture's settings and the shape and file of every tensor (no values)."""

    folder: Path
    architecture: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    files: dict[str, Path]


def read_policy_folder(folder: str | Path, *, trust_remote_code: bool = False) -> PolicyFolder:
    """Read config and safetensors headers of `folder`. Raises ModelError that names the folder and what is missing."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(
            f"there is no policy folder {folder}", "Give the folder of a Hugging Face model with safetensors weights."
        )
    architecture = _architecture(folder, trust_remote_code)
    headers = weight_headers(folder)
    if not headers:
        raise ModelError(f"policy folder {folder} has no tensors", "Copy or download the model again.")
    shapes = {name: header.shape for name, header in headers.items()}
    return PolicyFolder(folder, architecture, shapes, {name: header.file for name, header in headers.items()})


def check_same_architecture(policy: PolicyFolder, served: PolicyFolder) -> None:
    """Raises ModelError unless `policy` has the config, the tensors and the shapes of `served`."""
    where = f"policy folder {policy.folder}"
    keys = sorted(policy.architecture.keys() | served.architecture.keys())
    absent = object()
    changed = [k for k in keys if policy.architecture.get(k, absent) != served.architecture.get(k, absent)]
    if changed:
        both = ", ".join(
            f"{k} is {policy.architecture.get(k)!r}, not {served.architecture.get(k)!r}" for k in changed[:_SHOWN]
        )
        raise ModelError(
            f"{where} has another architecture than {served.folder}: {both}", "Train from the served policy."
        )
    here, there = _needed(policy), _needed(served)
    if missing := sorted(there.keys() - here.keys()):
        raise ModelError(
            f"{where} lacks {_some(missing)}, which {served.folder} has",
            "The copy is incomplete: copy the folder again.",
        )
    if extra := sorted(here.keys() - there.keys()):
        raise ModelError(
            f"{where} has {_some(extra)}, which {served.folder} does not have", "Merge LoRA adapters first."
        )
    if wrong := [name for name in here if here[name] != there[name]]:
        named = ", ".join(f"{n} {list(here[n])}, not {list(there[n])}" for n in wrong[:_SHOWN])
        raise ModelError(f"{where} has tensors of another shape than {served.folder}: {named}")


def check_finite(policy: PolicyFolder) -> None:
    """Raises ModelError that names the tensors with NaN or infinite values. Reads every value once, in pieces."""
    import torch
    from safetensors import SafetensorError, safe_open

    bad = []
    for file in sorted(set(policy.files.values())):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                    flat = tensors.get_tensor(name).reshape(-1)
                    if not all(bool(torch.isfinite(piece).all()) for piece in flat.split(_CHUNK)):
                        bad.append(name)
        except SafetensorError as error:
            raise ModelError(f"{file} cannot be read: {error}", "Copy or download the model again.") from error
    if bad:
        raise ModelError(
            f"policy folder {policy.folder} has NaN or infinite values in {_some(bad)}",
            "The training diverged: lower training.learning_rate.",
        )


def _architecture(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """The config as transformers understands it (so that two versions' spellings of the same model compare equal)."""
    config = load_config(folder, trust_remote_code=trust_remote_code)
    return {key: value for key, value in config.to_dict().items() if key not in _NOT_ARCHITECTURE}


def _needed(policy: PolicyFolder) -> dict[str, tuple[int, ...]]:
    """The shapes that two writers of one model must agree on: without computed buffers and a tied output embedding."""
    tied = bool(policy.architecture.get("tie_word_embeddings"))
    return {
        name: shape
        for name, shape in policy.shapes.items()
        if not name.endswith(_COMPUTED) and not (tied and name == _OUTPUT_EMBEDDING)
    }


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
