"""`summary.json`: what a selection did, as one versioned document. Plain values; no paths of the machine, no user or host."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selfplay.dataset_selection.building import BuiltPairs
from selfplay.dataset_selection.places import PLACES
from selfplay.dataset_selection.reading.dataset import OfflineDataset
from selfplay.dataset_selection.reading.several import SourceFacts
from selfplay.dataset_selection.settings import SOURCE, SelectSettings
from selfplay.inputs.rows.bad_rows import BadRows
from selfplay.selection.diagnostics.groups import Grouping
from selfplay.selection.diagnostics.records import Diagnostics
from selfplay.selection.metrics import Metric
from selfplay.selection.reasons import NOT_SELECTED, OVER_GROUP_QUOTA
from selfplay.selection.select import Selection
from selfplay.store.layout import SUMMARY_SCHEMA


def place_name(value: str) -> str:
    """The name of a path or model in published files: a local path's last part, a hub name as it is, a chat template that is
    written out by its beginning."""
    if "{{" in value or "{%" in value:
        return value if len(value) <= 40 else f"{value[:40]}..."
    path = Path(value)
    return path.name if path.is_absolute() or value.startswith((".", "~")) else value


def groupings(pairs: pa.Table, settings: SelectSettings) -> dict[str, Grouping]:
    """The groupings of the pairs whose shares are reported: the group column, and the source's files where there are several."""
    found = {}
    if "group" in pairs.column_names:
        found[settings.group_column or settings.columns.get("group", "group")] = Grouping.of(pairs["group"])
    if SOURCE in pairs.column_names:
        found[SOURCE] = Grouping.of(pairs[SOURCE])
    if "source_file" in pairs.column_names:
        files = Grouping.of(pairs["source_file"])
        if len(files.names) > 1:
            found["source_file"] = files
    return found


def summarize(
    *,
    settings: SelectSettings,
    metric: Metric,
    dataset: OfflineDataset,
    content: Mapping[str, str],
    built: BuiltPairs | None,
    selection: Selection,
    diagnostics: Diagnostics,
    notes: list[str],
    versions: Mapping[str, str],
    embedding_left_out: bool,
    commits: Mapping[str, str],
    sources: Sequence[SourceFacts] = (),
) -> dict[str, Any]:
    """The document. `content`: digests by name; `notes`: sentences for people; `commits` of hub models; `sources`: what was read
    of each of several datasets."""
    said = settings.identity()
    given = {name: getattr(settings, name) for name in (*PLACES[1:], "reward_function")}
    if settings.reward is not None:
        parts = settings.reward.parts.items()
        given |= {f"reward.parts.{name}": part.model or part.function for name, part in parts}
    places = {
        name: {"name": place_name(place), "sha256": content[name]}
        | ({"revision": commits[name]} if name in commits else {})
        for name, place in given.items()
        if place is not None
    }
    return {
        "schema": SUMMARY_SCHEMA,
        "selfplay": versions.get("selfplay", ""),
        "settings": said,
        "metric": {
            "name": metric.name,
            "formula": metric.formula,
            "direction": metric.direction,
            "source": place_name(metric.source),
        },
        "dataset": {
            "name": place_name(settings.dataset_name),
            "split": settings.split,
            "sha256": dataset.digest,
            "kind": dataset.kind,
            "num_rows": dataset.num_rows,
            "recognised": dict(sorted(dataset.recognised.items())),
        }
        | ({"sources": {each.name: _source(settings, each) for each in sources}} if sources else {}),
        "models": places,
        "bad_rows": bad_rows(dataset.bad_rows),
        "pair_building": _building(built),
        "selection": dataclasses.asdict(selection.summary),
        "diagnostics": dataclasses.asdict(diagnostics),
        "notes": [*dataset.notes, *notes, *selection.summary.notes]
        + (["The embeddings are not written into the result."] if embedding_left_out else []),
        "versions": dict(sorted(versions.items())),
    }


def _source(settings: SelectSettings, facts: SourceFacts) -> dict[str, Any]:
    asked = settings.sources[facts.name]
    return {
        "name": place_name(asked.dataset), "split": asked.split, "sha256": facts.digest, "num_rows": facts.num_rows,
        "num_bad_rows": facts.num_bad, "recognised": dict(sorted(facts.recognised.items())),
    }  # fmt: skip


def bad_rows(found: BadRows) -> dict[str, Any]:
    """The rows that cannot be used: counts by reason and the first of each reason, with file and row."""
    return {
        "count": found.count,
        "reasons": dict(found.counts),
        "examples": [dataclasses.asdict(row) for row in found.examples],
    }


def _building(built: BuiltPairs | None) -> dict[str, Any] | None:
    if built is None:
        return None
    reasons = built.unused["reason"].value_counts().to_pylist() if built.unused.num_rows else []
    return {
        "num_prompts": built.num_prompts,
        "num_responses": built.num_responses,
        "num_pairs": built.pairs.num_rows,
        "length_penalty": built.length_penalty,
        "unused": {item["values"]: item["counts"] for item in sorted(reasons, key=lambda item: item["values"])},
    }


def dropped_examples(pairs: pa.Table, selection: Selection) -> list[dict[str, Any]]:
    """For each reason why pairs did not enter the ranking, the first few of them with file and row."""
    reasons = selection.drop_reason_P
    found = []
    for name in reasons.counts():
        if name in (NOT_SELECTED, OVER_GROUP_QUOTA):  # these were ranked
            continue
        for row in np.flatnonzero(reasons.is_reason(name))[:3].tolist():
            place = {key: pairs[key][row].as_py() for key in ("source_file", "source_row") if key in pairs.column_names}
            found.append({"reason": name, "pair_id": pairs["pair_id"][row].as_py(), **place})
    return found
