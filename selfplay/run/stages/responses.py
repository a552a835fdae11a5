"""The responses of a round as columns of numbers, for what looks at a round as a whole (stage *pair* and its gates)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfplay.selection.arrays import Bools, Ints
from selfplay.selection.responses import empty_texts

COLUMNS = ["prompt_id", "response_index", "text", "finish_reason", "num_tokens", "policy_round"]


@dataclass(frozen=True, slots=True)
class RoundResponses:
    """R responses, row by row. `prompt_R` are codes into `prompt_ids`. `text_R` is equal where the texts are: it is the first
    64 bits of the text's BLAKE2b, by which two different texts among ten million are equal with a probability of 3e-6, and two
    of the same prompt practically never. `own_R`: sampled by a policy of this run, not by a second model."""

    prompt_ids: pa.Array
    prompt_R: Ints
    response_index_R: Ints
    num_tokens_R: Ints
    text_R: Ints
    empty_R: Bools
    truncated_R: Bools
    own_R: Bools

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> RoundResponses:
        """The responses of tables with the columns COLUMNS. A text is in memory only with its own table."""
        prompt_id: list[pa.DictionaryArray] = []
        facts: dict[str, list[np.ndarray[Any, Any]]] = {}
        for table in tables:
            prompt_id += table["prompt_id"].dictionary_encode().chunks
            texts = table["text"].to_pylist()
            found = {
                "response_index_R": table["response_index"].to_numpy(),
                "num_tokens_R": table["num_tokens"].to_numpy(),
                "text_R": np.fromiter(map(_hash, texts), np.int64, len(texts)),
                "empty_R": empty_texts(texts),
                "truncated_R": pc.not_equal(table["finish_reason"], "stop").to_numpy(),
                "own_R": pc.is_valid(table["policy_round"]).to_numpy(),
            }
            for name, values in found.items():
                facts.setdefault(name, []).append(values)
        encoded = pa.chunked_array(prompt_id, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
        prompt_id.clear()
        facts["prompt_R"] = [chunk.indices.to_numpy().astype(np.int64) for chunk in encoded.chunks]
        prompts = encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], pa.string())
        del encoded
        # each column's parts are freed before the next one is joined
        columns = {name: np.concatenate(facts.pop(name)) for name in [*facts]}
        return cls(prompt_ids=prompts, **columns)

    @classmethod
    def joined(cls, blocks: Iterable[RoundResponses]) -> RoundResponses:
        """The responses of several blocks of whole prompts, one after the other."""
        found = list(blocks)
        first_R = np.cumsum([0, *(len(block.prompt_ids) for block in found)])
        columns = {
            field.name: np.concatenate([getattr(block, field.name) for block in found])
            for field in fields(cls)
            if field.name not in ("prompt_ids", "prompt_R")
        }
        prompt_R = np.concatenate([block.prompt_R + first for block, first in zip(found, first_R, strict=False)])
        return cls(prompt_ids=pa.concat_arrays([block.prompt_ids for block in found]), prompt_R=prompt_R, **columns)


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
