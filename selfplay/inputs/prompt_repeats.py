"""Prompts that are in a source several times, or in the training and the held-out source: the same but for what is not seen."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from selfplay.inputs.prompts import Prompts

# Control characters: a text that has some of its own could at worst be counted as a repeat of another.
_WITHIN, _BETWEEN = "\x1f", "\x1e"
# White space that is not one space (a pattern that finds those too takes ten times as long).
_SPACES = r"\s\s+|[\t\n\v\f\r]"


def repeats(training: Prompts, held_out: Prompts | None) -> Iterator[str]:
    """Warnings on prompts that differ from another one by nothing but white space, case or the form of Unicode."""
    trained = _as_seen(training)
    num_again = len(trained) - pc.count_distinct(trained).as_py()
    if num_again:
        yield (
            f"{num_again} of the {len(training)} prompts of prompts.source repeat an earlier one (but for white space, case or "
            "the form of Unicode): each of them is sampled and trained on"
        )
    if held_out is None:
        return
    num_trained = pc.sum(pc.is_in(_as_seen(held_out), value_set=trained)).as_py() or 0
    if num_trained:
        yield (
            f"{num_trained} of the {len(held_out)} prompts of evaluation.source are in prompts.source too (but for white space, "
            "case or the form of Unicode): data that is trained on is not held out; remove these prompts from one of the two"
        )


def _as_seen(prompts: Prompts) -> pa.ChunkedArray:
    """Each prompt as one text of its roles and contents, without what is not seen."""
    found = []
    for batch in prompts.table.select(["messages"]).to_batches(max_chunksize=10_000):
        messages = batch.column(0)
        turns = messages.flatten()
        contents = pc.utf8_lower(pc.utf8_normalize(turns.field("content"), form="NFKC"))
        contents = pc.utf8_trim_whitespace(pc.replace_substring_regex(contents, pattern=_SPACES, replacement=" "))
        lines = pc.binary_join_element_wise(turns.field("role"), contents, _WITHIN)
        ends = pc.cumulative_sum(pc.list_value_length(messages).cast(pa.int64())).to_pylist()
        found.append(pc.binary_join(pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), lines), _BETWEEN))
    return pa.chunked_array(found, pa.string())
