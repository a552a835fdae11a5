"""What can be read from a model's folder without torch: its JSON files and the headers of its safetensors
files.

Serves the preflight checks (before any stage) and the backends that load a model. Safetensors only: pickles are
never read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.core.errors import ModelError
from selfplay.store.durable import canonical_json, sha256_bytes, sha256_file

# Of a model's folder, what loading it reads.
_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt", ".py")
_COMMIT = re.compile("[0-9a-f]{40}")
# as the safetensors library has it
_MAX_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor as a safetensors header describes it: dtype by its name there (F32, BF16, ...), shape, and the file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


def model_folder(model: str, revision: str | None = None) -> Path:
    """The local folder of a model given as a folder or as a hub name; a hub name is downloaded or found in the
    cache.

    Raises ModelError when there is no such folder and no such hub model within reach.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"revision {revision!r} is given for the folder {folder}",
                "A revision belongs to a hub name; remove it, or name the hub model.",
            )
        return folder.resolve()
    looks_like_path = folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1
    if looks_like_path or folder.exists():
        raise ModelError(
            f"no such model folder: {folder}" if not folder.exists() else f"{folder} is not a folder",
            "Give the folder that holds config.json and the safetensors files, or a Hugging Face name like org/model.",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=[f"*{suffix}" for suffix in _SUFFIXES]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{model!r} is not a folder and could not be downloaded from the Hugging Face hub: {_one_line(error)}",
            "Check the spelling, the network and HF_TOKEN for gated models, or download it and give the folder.",
        ) from error


def snapshot_commit(folder: Path) -> str | None:
    """The commit of a hub model's folder in the cache, which is named by it; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def loaded_files(folder: Path) -> list[Path]:
    """The files of a model's folder that loading it may read, sorted: those that are visible, on its top level (chat templates
    also in the one folder that transformers looks for more in) and of a suffix that matters. A README is none of them."""
    return sorted(
        path
        for path in (*folder.iterdir(), *(folder / "additional_chat_templates").glob("*.jinja"))
        if path.suffix in _SUFFIXES
        and not path.name.startswith(".")
        and path.stem.upper() not in ("README", "LICENSE")
        and path.is_file()
    )


def model_digest(folder: Path) -> str:
    """sha256 over the names and contents of the files that loading a model may read (see `loaded_files`)."""
    return sha256_bytes(canonical_json([[path.name, sha256_file(path)] for path in loaded_files(folder)]))


def refuse_foreign_code(folder: Path) -> None:
    """Raise ModelError where a model's own code (`auto_map`) lies in another repository: the commit that is pinned is not that
    of the code."""
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        listed = read_json(folder / name).get("auto_map") if (folder / name).is_file() else None
        if foreign := re.search(r'"[^"]*--[^"]*"', json.dumps(listed)):
            raise ModelError(
                f"{folder / name} takes its code from another repository ({foreign[0][1:-1]}), which no revision pins",
                "Put a copy of that code into the model's own repository.",
            )


def refuse_adapter(folder: Path) -> None:
    """Raise ModelError for a folder with an adapter: transformers would load its base model from elsewhere, and put it on."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter (adapter_config.json), not a whole model",
            "Merge it into its base model (peft: merge_and_unload) and save that, or remove the adapter's files.",
        )


def _is_weight_file(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's folder. Raises ModelError when the file is missing, malformed or something
    else."""
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}", "Give a complete Hugging Face model folder.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}", "Copy or download the model again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", "Copy or download the model again.")
    return value


def weight_headers(folder: Path) -> dict[str, TensorHeader]:
    """Names, dtypes and shapes of all tensors in a folder's safetensors files; every shard must be there and of
    full size.

    Raises ModelError for weights that are missing, truncated or only there as pickles.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index} has no weight_map", "Copy or download the model again.")
        # a file elsewhere is not part of the folder's digest: it could change during a run
        outside = sorted({str(name) for name in weight_map.values() if not _is_weight_file(name)})
        if outside:
            raise ModelError(
                f"{index} names {outside[0]!r}, which is not a safetensors file of its folder",
                "Copy or download the model again: its weights are beside the index.",
            )
        files = sorted({folder / str(name) for name in weight_map.values()})
        absent = [path.name for path in files if not path.is_file()]
        if absent:
            raise ModelError(
                f"{folder} lacks {len(absent)} of {len(files)} weight files: {', '.join(absent[:3])}",
                "The copy or download was interrupted; complete it.",
            )
        tensors = {name: tensor for path in files for name, tensor in _header(path).items()}
        lost = sorted(
            name for name, file in weight_map.items() if name not in tensors or tensors[name].file.name != file
        )
        if lost:
            raise ModelError(
                f"{index.name} lists {len(lost)} tensors that are not in their file, for example {lost[0]}",
                f"The files in {folder} belong to different models; copy or download the model again.",
            )
        return tensors
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        raise ModelError(
            f"{folder} holds no safetensors weights" + (", only pickled ones" if pickled else ""),
            "Pickled weights are not read; save the model again as safetensors."
            if pickled
            else "Give a complete Hugging Face model folder.",
        )
    return _header(files[0]) if len(files) == 1 else _header(folder / "model.safetensors")


def _header(path: Path) -> dict[str, TensorHeader]:
    """The header of one safetensors file: eight bytes of length, then JSON, then the data it describes."""
    if not path.is_file():
        raise ModelError(f"{path} is missing", "Several weight files need a model.safetensors.index.json.")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length + 8 > size:
            raise ModelError(f"{path} is truncated or not a safetensors file", "Copy or download the model again.")
        if length > _MAX_HEADER:
            raise ModelError(f"{path} has a header of {length} bytes", "Copy or download the model again.")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            tensors = {
                name: TensorHeader(entry["dtype"], tuple(entry["shape"]), path) for name, entry in entries.items()
            }
            expected = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path} has a damaged header", "Copy or download the model again.") from error
    if size != expected:
        raise ModelError(
            f"{path} has {size} bytes, its header describes {expected}", "Copy or download the model again."
        )
    return tensors


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
