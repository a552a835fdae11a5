"""Token ids of the pairs, kept in shards, and the passes of a model that go over the same shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.core.protocols import LogprobItem
from selfplay.dataset_selection.computing import Column, Computing, Filled, check_rows, floats, rows_of, spread
from selfplay.dataset_selection.rendering import NOT_RENDERED, PairRenderer
from selfplay.execution.quarantine import QUARANTINED, QuarantinePolicy
from selfplay.execution.sharding import cut, quarantined
from selfplay.inputs.resolve import PinnedModel
from selfplay.selection.arrays import Ints
from selfplay.selection.reasons import TOO_LONG_FOR_TRAINING, DropReasons

_IDS = pa.list_(pa.int32())
_TOKENS = pa.schema(
    [("pair_id", pa.string()), ("prompt", _IDS), ("chosen", _IDS), ("rejected", _IDS), ("drop_reason", pa.string())]
)


class Tokens:
    """Token ids of the pairs that are still in, in shards; later passes go over the same shards."""

    def __init__(self, computing: Computing, pairs: pa.Table, rows: Ints) -> None:
        self._computing, self._num_pairs = computing, pairs.num_rows
        self._rows = rows
        self._shards = cut(rows.tolist(), computing.settings.shard_size)
        self._pair_ids: list[str] = pairs["pair_id"].to_pylist()
        self._writer = computing.work.stage("tokens")
        self._notes: list[str] = []
        self._render(pairs)
        self._used: list[Ints] = []
        # pairs by id of which a response killed its worker in one of the passes
        self._lost: set[str] = set()

    def _render(self, pairs: pa.Table) -> None:
        models, stop, reporter = (
            self._computing.models,
            self._computing.under_way.stop,
            self._computing.under_way.reporter,
        )
        assert models.renderer is not None
        renderer = PairRenderer(models.renderer, models.stop_token_ids, models.limit)
        kept = self._writer.shards()
        done = sum(len(self._shards[index]) for index in kept)
        reporter.begin("tokens", sum(map(len, self._shards)), done, "pairs")
        details: list[str] = []
        for index, shard in enumerate(self._shards):
            if index in kept:
                continue
            stop.check()
            rows = rows_of(pairs, shard, ("prompt", "chosen", "rejected"))
            found = [renderer.pair(rows[row]["prompt"], rows[row]["chosen"], rows[row]["rejected"]) for row in shard]
            details += [pair.detail for pair in found if pair.detail]
            # the ids of what is too long are kept for its length only
            columns = [
                [self._pair_ids[row] for row in shard],
                [pair.prompt for pair in found], [pair.chosen for pair in found], [pair.rejected for pair in found],
                [pair.reason for pair in found],
            ]  # fmt: skip
            arrays = [pa.array(values, kind.type) for values, kind in zip(columns, _TOKENS, strict=True)]
            self._writer.write_shard(index, pa.Table.from_arrays(arrays, schema=_TOKENS))
            reporter.advance(len(shard))
        reporter.end()
        if details:
            self._notes.append(f"The policy's chat template cannot write some pairs; the first of them: {details[0]}")
        if renderer.apart:
            self._notes.append(
                f"{renderer.apart} responses were tokenised by themselves: the chat template does not write a conversation as "
                "a continuation of its prompt."
            )

    def fill(self, filled: Filled) -> None:
        """Lengths (NaN where nothing was tokenised), and the reasons of what cannot be used."""
        lengths = np.full((self._num_pairs, 3), np.nan)
        reasons: list[str | None] = []
        rows: list[int] = []
        for index, shard in enumerate(self._shards):
            if not shard:
                continue
            table = self._writer.read_shard(index)
            check_rows(table["pair_id"], [self._pair_ids[row] for row in shard], self._writer)
            for place, name in enumerate(("prompt", "chosen", "rejected")):
                lengths[shard, place] = pc.list_value_length(table[name]).to_numpy()
            found = table["drop_reason"].to_pylist()
            lengths[[row for row, reason in zip(shard, found, strict=True) if reason == NOT_RENDERED]] = np.nan
            self._used.append(
                np.array([row for row, reason in zip(shard, found, strict=True) if reason is None], dtype=np.int64)
            )
            rows += shard
            reasons += found
        assert filled.reasons is not None
        filled.reasons = (
            filled.reasons.put(np.array(rows, dtype=np.int64), DropReasons.of(reasons)) if rows else filled.reasons
        )
        names = ("num_prompt_tokens", "num_tokens_chosen", "num_tokens_rejected")
        filled.columns |= {name: lengths[:, place].copy() for place, name in enumerate(names)}
        filled.notes += self._notes
        long = int(filled.reasons.is_reason(TOO_LONG_FOR_TRAINING).sum())
        if long:
            limit = self._computing.models.limit
            filled.notes.append(
                f"{long} of {self._num_pairs} pairs have more than {limit} tokens: they are dropped, not cut."
            )

    def forward(self, name: str, model: PinnedModel, title: str, start: int | None = None) -> tuple[Column, Column]:
        """Log-probs of chosen and rejected under a model; with `start`, of the chosen ones alone."""
        both = start is None

        def arguments(shard: Sequence[int]) -> tuple[Any, ...]:
            items = self._items(shard, both)
            given = (str(model.folder), model.digest, items)
            return given if both else (*given, start)

        def finish(_: int, result: pa.Table | None) -> pa.Table:
            if result is None:
                return pa.table({"response_id": pa.array([], pa.string()), "logp": pa.array([], pa.float64())})
            return result.select(["response_id", "logp"])

        def nothing(row: int, reason: str) -> pa.Table:
            ids = [item.response_id for item in self._items([row], both)]
            return pa.table({"response_id": pa.array(ids, pa.string()), "logp": pa.nulls(len(ids), pa.float64())})

        most = self._computing.settings.cluster.max_poison_items
        quarantine: QuarantinePolicy[int] = QuarantinePolicy(self._pair_ids.__getitem__, nothing, most)
        writer = self._computing.work.stage(name)
        method = "logprobs" if both else "logprobs_alone"
        table = self._computing.run(
            writer, "logprobs", method, self._shards, arguments, finish, title=title, quarantine=quarantine
        )
        self._lost |= quarantined(writer, "").keys()
        used = np.concatenate([np.empty(0, dtype=np.int64), *self._used])
        sides = ("chosen", "rejected") if both else ("chosen",)
        check_rows(table["response_id"], [f"{self._pair_ids[row]}/{side}" for row in used for side in sides], writer)
        logp = floats(table["logp"]).reshape(len(used), len(sides))
        columns = [spread(logp[:, place], used, self._num_pairs) for place in range(len(sides))]
        return columns[0], columns[-1]

    def embed(self, model: PinnedModel) -> Column:
        """Embeddings of prompt and chosen response; NaN of the pairs that are lost already."""

        def arguments(shard: Sequence[int]) -> tuple[Any, ...]:
            items = self._items(shard, False)
            items = [item for item in items if item.response_id.removesuffix("/chosen") not in self._lost]
            return (str(model.folder), model.digest, items)

        writer = self._computing.work.stage("embedding")
        table = self._computing.run(
            writer, "logprobs", "embeddings", self._shards, arguments, embedded, title="embeddings",
            quarantine=QuarantinePolicy(self._pair_ids.__getitem__),
        )  # fmt: skip
        used = np.concatenate([np.empty(0, dtype=np.int64), *self._used])
        left = np.array([self._pair_ids[row] not in self._lost for row in used], dtype=np.bool_)
        return embedding_column(table, used[left], self._num_pairs)

    def leave_out_the_lost(self, filled: Filled) -> None:
        """The reason of the pairs whose log-probs killed their worker."""
        rows = [row for row, name in enumerate(self._pair_ids) if name in self._lost] if self._lost else []
        if rows:
            assert filled.reasons is not None
            filled.reasons = filled.reasons.put(
                np.array(rows, dtype=np.int64), DropReasons.of([QUARANTINED] * len(rows))
            )
            filled.notes.append(f"{len(rows)} of {self._num_pairs} pairs have no log-probs: {QUARANTINED}.")

    def _items(self, rows: Sequence[int], both: bool) -> list[LogprobItem]:
        """Of consecutive rows of one shard (a whole one, or a part where it was halved)."""
        sides = ("chosen", "rejected") if both else ("chosen",)
        index, place = divmod(int(np.searchsorted(self._rows, rows[0])), self._computing.settings.shard_size)
        return [
            LogprobItem(f"{row['pair_id']}/{side}", row["prompt"], row[side])
            for row in self._writer.read_shard(index).slice(place, len(rows)).to_pylist()
            if row["drop_reason"] is None
            for side in sides
        ]


def embedded(_: int, result: pa.Table | None) -> pa.Table:
    if result is not None:
        return result.select(["embedding"])
    return pa.table({"embedding": pa.array([], pa.list_(pa.float32()))})


def embedding_column(table: pa.Table, rows: Ints, num_pairs: int) -> Column:
    column = table["embedding"].combine_chunks()
    flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    size = len(flat) // max(len(rows), 1)
    spread = np.full((num_pairs, size), np.nan, dtype=np.float32)
    spread[rows] = flat.reshape(len(rows), size)
    return spread
