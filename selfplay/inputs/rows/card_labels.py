"""Labels whose names stand in the metadata of a dataset's folder, for files that keep only their numbers (JSON, CSV, Parquet).

`dataset_info` of the card, or an older `dataset_infos.json`, gives columns the type `class_label` with names. `datasets` casts
the files to it; here a number is read as its name (see `class_labels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfplay.core.errors import DataError
from selfplay.core.json_text import parse_json
from selfplay.inputs.rows.card import NAME_A_FILE, card_entry
from selfplay.inputs.rows.class_labels import labelled_features
from selfplay.store.layout import COMMIT as MANIFEST

_OLD = "dataset_infos.json"


def declared_labels(folder: Path, subset: str | None) -> Mapping[str, Any]:
    """The features, as JSON, of the columns of a subset that hold labels at any depth; `subset` None: of the only one, or of the
    default. Raises DataError where they are there and cannot be understood."""
    card, said = card_entry(folder, "dataset_info", "class_label")
    old = folder / _OLD
    if said is None and (not old.is_file() or (folder / MANIFEST).exists()):
        return {}
    try:
        infos = _of_card(said) if said is not None else _of_old_file(old.read_bytes())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        place = card if said is not None else old
        raise DataError(f"{place} has a dataset_info that `datasets` does not read: {error}", NAME_A_FILE) from None
    features = next(iter(infos.values())) if len(infos) == 1 and subset is None else infos.get(subset or "default", {})
    return labelled_features(features)


def _of_card(said: Any) -> Mapping[str, Any]:
    from datasets import Features
    from datasets.info import DatasetInfosDict

    infos = DatasetInfosDict.from_dataset_card_data({"dataset_info": said})
    return {name: Features(info.features or {}).to_dict() for name, info in infos.items()}


def _of_old_file(content: bytes) -> Mapping[str, Any]:
    return {name: info.get("features") or {} for name, info in parse_json(content).items()}
