"""Gives a trained policy's folder all the tensors of the published one that it was trained from, under their names.

transformers writes what it has loaded: without the parts that a language model does not have (the vision tower of a composite
model, layers for multi-token prediction, mask buffers) and under its own names. The engine and other tools know the model as it
was published.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from selfplay.core.heartbeat import beat
from selfplay.inputs.models.files import weight_headers
from selfplay.inputs.models.loading_check import published_names

Tensors = dict[str, torch.Tensor]


def complete_tensors(model: Any, source: Path, folder: Path) -> None:
    """Make the tensors in `folder`, where `model` was saved, those of the published folder `source` by name. What training did
    not touch is copied from there as it is; a tied weight that is published twice is written twice.

    A folder whose tensors already have these names stays as it is. Raises ModelError as `published_names`.
    """
    written, published = weight_headers(folder), weight_headers(source)
    names = published_names(source, written, published, model.base_model_prefix)
    rest = published.keys() - names.values()
    if not rest and all(name == same for name, same in names.items()):
        return
    tied = _tied(model, rest)
    new = folder / "complete"
    new.mkdir()
    weight_map: dict[str, str] = {}
    size = 0
    old = sorted({header.file for header in written.values()})
    num_files = len(old) + bool(tied) + len({published[name].file for name in rest - tied.keys()})
    shards = _shards(names=names, old=old, tied=tied, source={n: published[n].file for n in rest - tied.keys()})
    for number, tensors in enumerate(shards, start=1):
        beat()
        file = f"model-{number:05d}-of-{num_files:05d}.safetensors" if num_files > 1 else "model.safetensors"
        save_file(tensors, new / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    for path in (*old, folder / "model.safetensors.index.json"):
        path.unlink(missing_ok=True)
    for path in new.iterdir():
        shutil.move(path, folder / path.name)
    new.rmdir()
    if num_files > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(*, names: dict[str, str], old: list[Path], tied: Tensors, source: dict[str, Path]) -> Iterator[Tensors]:
    """The tensors of each new file by their published names, one file in memory at a time: the trained ones in the `old` files
    (`names`: written name to published name), tied copies, and those of the `source` files."""
    for file in old:
        with safe_open(file, framework="pt") as stored:
            yield {names[name]: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    if tied:
        yield tied
    for file in sorted(set(source.values())):
        with safe_open(file, framework="pt") as stored:
            yield {name: stored.get_tensor(name) for name, where in sorted(source.items()) if where == file}


def _tied(model: Any, rest: set[str]) -> Tensors:
    """Of the published names `rest` those of tied weights, with their trained values."""
    values = model.state_dict()
    return {
        name: values[tied].detach().cpu().contiguous()
        for name in sorted(rest)
        for tied in model.all_tied_weights_keys
        if name == tied or name.endswith(f".{tied}") or tied.endswith(f".{name}")
    }
