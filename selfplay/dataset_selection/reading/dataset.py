"""Read a preference dataset: the first step of `selfplay select`.

A source is opened, its columns are recognised, and it is read by whole columns where it holds numbers only, row by row
otherwise. Every row becomes a pair, a response or a prompt, or is counted as bad with one reason. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.numbers import has_only_numbers, read_numbers
from selfplay.dataset_selection.reading.pairs import read_pairs
from selfplay.dataset_selection.reading.responses import read_lists, read_response_rows
from selfplay.inputs.rows.bad_rows import BadRowLog, BadRows
from selfplay.inputs.rows.columns import Columns, recognise
from selfplay.inputs.rows.messages import NO_PROMPT, SERIALISED, SEVERAL
from selfplay.inputs.rows.source import Source, open_source
from selfplay.inputs.rows.survey import Survey, survey
from selfplay.store.spool import Spool


@dataclass(frozen=True, slots=True)
class OfflineDataset:
    """An offline preference dataset, read and checked.

    `kind` "pairs": `pairs` has one row a pair, in the source's order: `pair_id prompt_id source_file source_row prompt
    chosen rejected` (the last three are lists of messages; chosen and rejected are one assistant turn each), the numbers
    that were recognised under the names of the pairs table, and `columns_json` (the row's other columns, where there are
    any). A table of numbers has no text: `pair_id`, the numbers, and `columns_json` where there are others.

    `kind` "responses": `prompts` (`prompt_id source_file source_row messages group? columns_json?`) and `responses`
    (`response_id prompt_id response_index source_file source_row text`, `reward policy_logp reference_logp num_tokens`
    where recognised, `drop_reason`, null where the response can be used). The other columns and the group of a row are with
    what a row is: with `prompts` where it is a prompt, with `responses` where it is a response. Of responses that are objects
    in a list, `columns_json` has the prompt's other columns and the fields of the object.

    `recognised`: our name -> the source's column. `notes`: what was assumed or left out. `num_rows`: rows read; those of
    pairs (with one row a response, of responses; with one row a prompt, of prompts) and bad rows add up to it, where no row has
    several pairs. `digest`:
    sha256 (hex) of the source's content.
    """

    kind: Literal["pairs", "responses"]
    pairs: pa.Table | None
    prompts: pa.Table | None
    responses: pa.Table | None
    bad_rows: BadRows
    recognised: Mapping[str, str]
    num_rows: int
    digest: str
    notes: list[str] = field(default_factory=list)


def read_dataset(
    source: str,
    *,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    wanted: Collection[str] = (),
    prefer: Literal["pairs", "responses"] = "pairs",
    base_dir: str | Path = ".",
    spool: Spool | None = None,
) -> OfflineDataset:
    """Read and check every row of a preference dataset.

    `source`, `split`, `subset`, `revision` and `base_dir` are those of `open_source`. `columns`: our name -> the source's
    column, for what is not recognised or not as wanted; an empty name means that there is none. `wanted`: further columns
    of numbers, one for each pair, that a metric reads under their own names. `prefer`: what to read where the columns
    hold both pairs and several responses for each prompt. `spool` keeps large tables (None: they stay in memory).

    Raises DataError for a source that cannot be read or has no usable row, for named columns that do not exist, for
    columns that could have several roles, or that are neither pairs nor responses.
    """
    opened = open_source(source, split, base_dir, subset=subset, revision=revision)
    pairs: pa.Table | None = None
    prompts: pa.Table | None = None
    responses: pa.Table | None = None
    # Hashing releases Python's lock: on a large table it runs beside the reading.
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(opened.digest)
        surveyed = survey(opened)
        if not surveyed.columns:
            _refuse_empty(opened)
        found = recognise(opened.name, surveyed, named=columns or {}, wanted=wanted, prefer=prefer)
        _refuse_steps(opened.name, found, surveyed)
        log, notes = BadRowLog(), list(found.notes)
        if found.shape in ("lists", "rows"):
            read = read_lists if found.shape == "lists" else read_response_rows
            prompts, responses, num_rows = read(opened, found, log, notes, spool)
        else:
            read_table = read_numbers if has_only_numbers(opened, found) else read_pairs
            pairs, num_rows = read_table(opened, found, log, notes, spool)
    bad_rows = log.done()
    kind: Literal["pairs", "responses"] = "pairs" if responses is None else "responses"
    usable = pairs if responses is None else responses
    assert usable is not None
    if usable.num_rows == 0:
        raise _no_usable_row(opened.name, bad_rows, num_rows)
    return OfflineDataset(
        kind, pairs, prompts, responses, bad_rows, dict(found.names), num_rows, digest.result(), notes
    )


def _refuse_empty(source: Source) -> None:
    """Raises DataError for a source without columns: it has no rows, or no row can be read."""
    bad = next(iter(source.rows()), None)
    if bad is None:
        raise DataError(f"{source.name} has no rows", "Give a source with at least one pair.")
    raise DataError(
        f"no row of {source.name} can be read: {bad.file} row {bad.row}: {bad.problem}",
        "A .jsonl file has one JSON object a line; an array of objects, also over several lines, is a .json file.",
    )


def _refuse_steps(name: str, found: Columns, surveyed: Survey) -> None:
    """Raises DataError for the steps of one answer with a label each, as TRL reads them for process rewards: by the names
    of their columns alone they are several answers to the prompt."""
    names, steps = found.names, ("completions", "labels")
    if (
        names.get("responses") == steps[0]
        and not {"rewards", "ranks"} & names.keys()
        and surveyed.kind(steps[1]) == "list"
    ):
        raise DataError(
            f"{name}: it is not clear whether the lists in 'completions' are several answers to a prompt, or the steps of one "
            "answer with their labels in 'labels'",
            "If they are several answers, say --columns rewards=labels. Steps of one answer make no pairs.",
        )


def _no_usable_row(name: str, bad_rows: BadRows, num_rows: int) -> DataError:
    if num_rows == 0:
        return DataError(f"{name} has no rows", "Give a source with at least one pair.")
    counts = ", ".join(f"{reason} {count:,}" for reason, count in bad_rows.counts.items())
    first = "; ".join(str(row) for row in bad_rows.first(1))
    most = max(bad_rows.counts, key=lambda reason: bad_rows.counts[reason])
    return DataError(
        f"none of the {num_rows:,} rows of {name} can be used ({counts}): {first}",
        _HINTS.get(most, "Fix the rows, or name the right columns with --columns OUR_NAME=THEIR_NAME."),
    )


_LISTS = (
    "Name lists of responses with --columns responses=COLUMN, their scores with rewards=COLUMN. Where a list is "
    "[chosen, rejected], as in Alpaca's ranking form, write the two into columns chosen and rejected. Where a row has several "
    "chosen or rejected texts and numbers of a pair, write one row for each pair."
)
_SERIALISED = "Write the messages as JSON (json.dumps in Python), or as lists in JSONL or Parquet."
# What may help where most rows are bad for one reason.
_HINTS = {
    SEVERAL: _LISTS,
    NO_PROMPT: "Name the prompt column: --columns prompt=COLUMN.",
    SERIALISED: _SERIALISED,
    "not_a_list": "The responses and their scores are lists, one row a prompt. With one row a response, name the columns with "
    "--columns prompt=COLUMN,response=COLUMN,reward=COLUMN. " + _SERIALISED,
    "lists_differ_in_length": "Name the list that goes with the responses: --columns responses=COLUMN,rewards=COLUMN.",
    "no_usable_response": "Name the lists of texts and of numbers: --columns responses=COLUMN,rewards=COLUMN. A response in a "
    "list of objects is named as COLUMN.FIELD.",
    "not_a_number": "Name the columns of numbers: --columns reward=COLUMN with one row a response, rewards=COLUMN for lists, "
    "reward_chosen=COLUMN,reward_rejected=COLUMN for pairs.",
    "no_user_turn": "A prompt ends in a user turn. A dialogue that ends in the answer is named as chosen, rejected or response.",
    "prompt_differs": "Give --columns prompt= to take the prompt from the dialogues.",
    "tie": "Name another column for the preference, or give reward_a=COLUMN,reward_b=COLUMN.",
    "unknown_preference": "Name another column for the preference: it holds the label of the better response, or `tie`.",
}
