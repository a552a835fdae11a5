"""Pairs read row by row: texts in any form, or numbers stored in rows (CSV, JSON)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.dataset_selection.reading.numbers import checked
from selfplay.dataset_selection.reading.preference import Preference, find_preference
from selfplay.dataset_selection.reading.several_answers import each_pair
from selfplay.inputs.rows.bad_rows import BadRow, BadRowLog, BadValue
from selfplay.inputs.rows.columns import Columns
from selfplay.inputs.rows.fields import optional_at
from selfplay.inputs.rows.messages import read_pair
from selfplay.inputs.rows.source import Source
from selfplay.inputs.rows.tables import MESSAGES, RowTable, distinct_hashes, other_columns, prompt_ids, row_ids
from selfplay.inputs.rows.values import content_hash, embedding, group_name, number, user_id
from selfplay.store.spool import Spool

# The shortest prompt, in characters, that an answer does not begin with by chance.
_A_SENTENCE = 10


def read_pairs(
    source: Source, columns: Columns, log: BadRowLog, notes: list[str], spool: Spool | None = None
) -> tuple[pa.Table, int]:
    """The table of pairs (see `dataset.OfflineDataset`), kept in `spool` if it is large, and the number of rows read. Raises
    DataError for ids that the user named and that cannot be used."""
    has_text = columns.shape != "numbers"
    preference = find_preference(source, columns, notes) if columns.shape == "choices" else None
    names = preference.names_of_sides[0] if preference is not None else columns.names
    numbers = {ours: names[ours] for ours in columns.numbers}
    strength = _strength(preference, numbers, notes)
    if strength is not None:
        numbers["explicit_margin"] = strength
    schema: dict[str, pa.DataType] = {"pair_id": pa.string(), "hash": pa.string()}
    if has_text:
        schema |= {"prompt_id": pa.string(), "prompt_hash": pa.string()}
    schema |= {"source_file": pa.string(), "source_row": pa.int64()}
    if has_text:
        schema |= {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES}
    schema |= {"group": pa.string()} if "group" in names else {}
    schema |= dict.fromkeys(numbers, pa.float64())
    schema |= {"embedding": pa.list_(pa.float32())} if "embedding" in names else {}
    schema |= {"columns_json": pa.string()} if columns.others else {}
    pairs, width, total, num_several, num_prefixed = RowTable(schema, spool), None, 0, 0, 0
    numbered = bool(numbers) or "embedding" in names
    pair_id, prompt_id = names.get("pair_id"), names.get("prompt_id")
    for item in source.rows():
        total += 1
        try:
            if item.values is None:
                raise BadValue("unreadable", item.problem or "unreadable")
            values = item.values
            side = preference.side(values) if preference is not None else 0
            if preference is not None:
                names = preference.names_of_sides[side]
            measured = [_measured(values, names[ours]) for ours in columns.numbers]
            if strength is not None:
                measured.append(abs(_measured(values, strength) or 0.0))
            heads: list[list[Any]] = []
            given = user_id(optional_at(values, pair_id))
            for number, one in enumerate(each := each_pair(values, names, numbered=numbered) if has_text else [values]):
                heads.append([f"{given}-{number}" if given is not None and len(each) > 1 else given])
                if has_text:
                    prompt, chosen, rejected = read_pair(one, names)
                    asked = prompt[-1]["content"]
                    begins = all(answer[0]["content"].startswith(asked) for answer in (chosen, rejected))
                    num_prefixed += begins and len(asked) >= _A_SENTENCE
                    prompt_hash = content_hash([prompt, 0])  # as a run makes the id of a prompt
                    heads[-1] += [
                        content_hash([prompt_hash, chosen[0]["content"], rejected[0]["content"]]),
                        user_id(optional_at(values, prompt_id)), prompt_hash, item.file, item.row,
                        prompt, chosen, rejected,
                    ]  # fmt: skip
                else:
                    heads[-1] += [f"{total:08d}", item.file, item.row]
            row: list[Any] = [group_name(optional_at(values, names["group"]))] if "group" in names else []
            row += measured
            if "embedding" in names:
                row.append(embedding(optional_at(values, names["embedding"]), f"column {names['embedding']!r}", width))
                width = len(row[-1])
        except BadValue as error:
            log.add(BadRow(item.file, item.row, error.reason, error.detail))
            continue
        if columns.others:
            row.append(other_columns(values, columns, preference.renamed[side] if preference is not None else {}))
        for head in heads:
            pairs.append(head + row)
        num_several += len(heads) > 1
    if num_several:
        notes.append(
            f"{num_several} rows have several chosen or rejected texts: each chosen one makes a pair with each rejected one"
        )
    if 2 * num_prefixed > len(pairs):
        notes.append(
            f"in {num_prefixed} rows both answers begin with the text of the prompt; if they were stored together with it, "
            "remove it from them: otherwise it appears twice"
        )
    table = pairs.done()
    ids = row_ids(table["pair_id"], distinct_hashes(table["hash"]), "pair_id", columns, notes)
    table = table.set_column(0, "pair_id", ids)
    if has_text:
        ids = prompt_ids(table["prompt_id"], table["prompt_hash"], columns, notes)
        table = table.set_column(table.column_names.index("prompt_id"), "prompt_id", ids)
    if "embedding" in names and table.num_rows:
        fixed = pa.FixedSizeListArray.from_arrays(pc.list_flatten(table["embedding"]).combine_chunks(), width)
        table = table.set_column(table.column_names.index("embedding"), "embedding", fixed)
    files, rows = table["source_file"], table["source_row"]
    hidden = {"hash", "prompt_hash"} | (set() if has_text else {"source_file", "source_row"})
    table = table.select([name for name in table.column_names if name not in hidden])
    return checked(table, numbers, log, lambda row: (files[row].as_py(), rows[row].as_py()), notes, spool)[0], total


def _measured(values: Mapping[str, Any], name: str) -> float | None:
    """A number of a row; None where it has none. Raises BadValue."""
    return number(optional_at(values, name), f"column {name!r}")


def _strength(preference: Preference | None, numbers: Mapping[str, str], notes: list[str]) -> str | None:
    """The column whose size is the explicit margin: that of a signed preference, where there are no rewards and no margin."""
    if preference is None or preference.reads != "sign" or {"reward_chosen", "explicit_margin"} & {*numbers}:
        return None
    notes.append(f"the explicit margin is the size of {preference.column!r}")
    return preference.column
