"""What a model's folder may not do: lead out of itself, by links or by names in its JSON files.

A folder is pinned by the content of its files. What it names elsewhere (code of attention kernels on the hub, another model) is
in no pin, and libraries would fetch and run it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfplay.core.errors import ModelError
from selfplay.inputs.models.files import loaded_files, read_json

# files that say how a model is loaded
_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "preprocessor_config.json")
# keys whose value is a model or an adapter that is loaded beside this one
_OTHER_MODELS = ("speculators_config", "base_model_name_or_path", "assistant_model", "draft_model")


def refuse_links(folder: Path) -> None:
    """Raise ModelError for a symbolic link in a model's folder, but for those of the hub's cache, which lead to its own blobs."""
    for path in (folder / "additional_chat_templates", *loaded_files(folder)):
        if path.is_symlink() and not _is_own_blob(path.resolve(), folder.resolve()):
            raise ModelError(
                f"{path} is a symbolic link",
                "Replace it by the file itself: a link would let another file be read.",
            )


def _is_own_blob(path: Path, folder: Path) -> bool:
    """Whether this is a file of the same model in the hub's cache: models--ORG--NAME/blobs/DIGEST beside .../snapshots/COMMIT."""
    return folder.parent.name == "snapshots" and path.parent == folder.parent.parent / "blobs"


def refuse_named_elsewhere(folder: Path) -> None:
    """Raise ModelError where the model's settings name code or a model elsewhere: an implementation of attention or of experts
    that is a repository or a path (transformers would fetch it), or another model that an engine would load."""
    for name in _CONFIGS:
        path = folder / name
        for key, value in _items(read_json(path)) if path.is_file() else ():
            named = [text for text in _texts(value) if any(mark in text for mark in "/:|\\")]
            if key.strip("_").endswith("implementation") and named:
                raise ModelError(
                    f"{path} names code elsewhere: {key} is {named[0]!r}",
                    f"Remove {key} from the file, or give the name of a built-in one, such as sdpa.",
                )
            if key in _OTHER_MODELS and value:
                raise ModelError(
                    f"{path} names another model ({key}), which would be loaded beside it",
                    f"Remove {key} from the file. selfplay loads a model from its own folder only.",
                )


def _items(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON document with its value, at any depth."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    return [value] if isinstance(value, str) else []
