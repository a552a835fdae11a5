"""Read an offline preference dataset: the first step of `selfplay select`.

A source is opened (`source_rows`), its columns are recognised (`columns`), and it is read by whole columns where it holds
numbers only (`table_of_numbers`) and row by row otherwise (`pairs`, `responses`). Every row ends as a pair, a response or
a prompt, or is counted as bad with one reason. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pyarrow as pa

from selfplay.core.errors import DataError
from selfplay.dataset_selection.reading.columns import Columns, recognise
from selfplay.dataset_selection.reading.conversations import SEVERAL
from selfplay.dataset_selection.reading.dataset import BadRowLog, BadRows, OfflineDataset
from selfplay.dataset_selection.reading.numbers import has_only_numbers
from selfplay.dataset_selection.reading.numeric_table import read_numbers
from selfplay.dataset_selection.reading.pairs import read_pairs
from selfplay.dataset_selection.reading.responses import read_lists, read_response_rows
from selfplay.inputs.row_reader import Source, open_source


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
) -> OfflineDataset:
    """Read and check every row of a preference dataset.

    `source` is a path relative to `base_dir` (a file, a folder of shards, a save_to_disk folder, what `select` wrote, or
    the folder of a run's table) or a Hub dataset; `split`, `subset` and `revision` as in `source_rows.read_rows`.

    `columns`: our name -> the source's column, for what is not recognised or not as wanted; an empty name means that
    there is none. `wanted`: further columns of numbers, one for each pair, that a metric reads under their own names.
    `prefer`: what to read where the columns hold both pairs and several responses for each prompt.

    Raises DataError for a source that cannot be read or has no usable row, for columns that are named and not there,
    that could be several things, or that are neither pairs nor responses.
    """
    opened = open_source(source, split, base_dir, subset=subset, revision=revision)
    # Hashing lets go of Python's lock: on a large table it runs beside the reading.
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(opened.digest)
        names = opened.columns()
        log, notes = BadRowLog(), []
        if not names:
            _refuse_empty(opened)
        found = recognise(opened.name, names, named=columns or {}, wanted=wanted, prefer=prefer)
        notes = list(found.notes)
        pairs, prompts, responses, num_rows = _read(opened, found, log, notes)
    bad_rows = log.done()
    usable = pairs if pairs is not None else responses
    assert usable is not None
    if usable.num_rows == 0:
        raise _no_usable_row(opened.name, bad_rows, num_rows)
    kind: Literal["pairs", "responses"] = "pairs" if pairs is not None else "responses"
    return OfflineDataset(
        kind, pairs, prompts, responses, bad_rows, dict(found.names), num_rows, digest.result(), notes
    )


def _read(
    source: Source, columns: Columns, log: BadRowLog, notes: list[str]
) -> tuple[pa.Table | None, pa.Table | None, pa.Table | None, int]:
    """Pairs, prompts, responses and the number of rows read."""
    if columns.shape in ("lists", "rows"):
        if "prompt" not in columns.names:
            raise DataError(
                f"{source.name} has responses but no prompt column is recognised", "Name it: --columns prompt=COLUMN."
            )
        read = read_lists if columns.shape == "lists" else read_response_rows
        prompts, responses, num_rows = read(source, columns, log, notes)
        return None, prompts, responses, num_rows
    by_columns = has_only_numbers(source, columns)
    pairs, num_rows = (read_numbers if by_columns else read_pairs)(source, columns, log, notes)
    return pairs, None, None, num_rows


def _refuse_empty(source: Source) -> None:
    """Raises DataError: there are no columns, because there are no rows or none that can be read."""
    bad = next(iter(source.rows()), None)
    if bad is None:
        raise DataError(f"{source.name} has no rows", "Give a source with at least one pair.")
    raise DataError(
        f"no row of {source.name} can be read: {bad.file} row {bad.row}: {bad.problem}", "Check the file's format."
    )


def _no_usable_row(name: str, bad_rows: BadRows, num_rows: int) -> DataError:
    if num_rows == 0:
        return DataError(f"{name} has no rows", "Give a source with at least one pair.")
    counts = ", ".join(f"{reason} {count:,}" for reason, count in bad_rows.counts.items())
    first = "; ".join(str(bad) for bad in bad_rows.examples[:3])
    hint = "Mend the rows, or name the right columns with --columns OUR_NAME=THEIR_NAME."
    if SEVERAL in bad_rows.counts:
        hint = (
            "Lists of responses go by --columns responses=COLUMN, with their scores as rewards=COLUMN. Where a list is "
            "[chosen, rejected], as in Alpaca's ranking form, write the two into columns chosen and rejected."
        )
    return DataError(
        f"none of the {num_rows:,} rows of {name} can be used ({counts}): {first}",
        hint,
    )
