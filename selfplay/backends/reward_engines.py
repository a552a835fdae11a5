"""A reward model, computed by vLLM or by transformers: the stage chooses, and one of the two is loaded at a time."""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from selfplay.backends.reward_rows import Rows
from selfplay.backends.transformers.reward_model import RewardModel
from selfplay.backends.vllm.pooling_engine import PoolingEngine, pooling_problem
from selfplay.core.answer_schemas import ENGINES_SCHEMA
from selfplay.core.protocols import ScoreItem
from selfplay.core.timing import part

NUM_COMPARED = 8


class RewardEngines:
    """An `EngineScorer`. The arguments are those of `RewardModel`, which is loaded first: it is one side of the comparison, and
    what computes the rewards where vLLM does not."""

    def __init__(self, model: str, *, dtype: str = "auto", trust_remote_code: bool = False, **settings: Any) -> None:
        self._load = functools.partial(RewardModel, model, dtype=dtype, trust_remote_code=trust_remote_code, **settings)
        self._model: RewardModel | None = self._load()
        self._engine: PoolingEngine | None = None
        self._rows = self._model.rows
        self._folder, self._trust_remote_code = self._model.folder, trust_remote_code
        self._new_engine = functools.partial(
            PoolingEngine,
            self._folder,
            dtype=dtype,
            max_length=self._rows.max_length,
            batch_tokens=self._model.batch_tokens,
            pad_token_id=self._model.pad_token_id,
            weight_bytes=self._model.weight_bytes,
            trust_remote_code=trust_remote_code,
        )

    def score(self, items: Sequence[ScoreItem], engine: str = "transformers") -> pa.Table:
        """Rewards in the order of `items`, as SCORES_SCHEMA, by "vllm" or "transformers"."""
        return self._rows.score(items, self._by_vllm if engine == "vllm" else self._by_transformers)

    def compare(self, items: Sequence[ScoreItem]) -> pa.Table:
        """The rewards of at most NUM_COMPARED of the items by both; see `EngineScorer`."""
        rendered = [self._rows.render(item)[0] for item in items]
        usable = [place for place, token_ids in enumerate(rendered) if token_ids]
        # spread over the items: the first are the responses to one prompt
        places = (
            [usable[place] for place in np.linspace(0, len(usable) - 1, NUM_COMPARED).astype(int)] if usable else []
        )
        chosen = [items[place] for place in dict.fromkeys(places)]
        exact = dict(self._rewards_of(chosen, "transformers"))
        with part("loading"):  # it imports vLLM
            problem = pooling_problem(self._folder, trust_remote_code=self._trust_remote_code)
        found: dict[str, float | None] = {}
        if not problem:
            try:
                found = dict(self._rewards_of(chosen, "vllm"))
            except Exception as error:  # vLLM's start raises many kinds of exceptions; the reason is recorded
                problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ids = [item.response_id for item in items]
        columns = [
            ids,
            [exact.get(name) for name in ids],
            [found.get(name) for name in ids],
            [problem or None] * len(ids),
        ]
        return pa.table(columns, schema=ENGINES_SCHEMA)

    def _rewards_of(self, items: Sequence[ScoreItem], engine: str) -> list[tuple[str, float | None]]:
        table = self.score(items, engine)
        return list(zip(table["response_id"].to_pylist(), table["reward"].to_pylist(), strict=True))

    def _by_transformers(self, rows: Rows) -> list[float]:
        if self._model is None:
            self._free()
            self._model = self._load()
        return self._model.rewards(rows)

    def _by_vllm(self, rows: Rows) -> list[float]:
        if self._engine is None:
            self._free()
            with part("loading"):
                self._engine = self._new_engine()
        found = self._engine.rewards(rows.token_ids)
        bad = [place for place, reward in enumerate(found) if not math.isfinite(reward)]
        if bad:
            # The cache keeps what is not finite, and the next rows may read it: the engine is built anew, and transformers, which
            # keeps nothing, has the last word on these rows.
            again = Rows([rows.token_ids[place] for place in bad], [rows.prompts[place] for place in bad])
            for place, reward in zip(bad, self._by_transformers(again), strict=True):
                found[place] = reward
        return found

    def _free(self) -> None:
        """Free the memory of the one that is loaded."""
        if self._engine is not None:
            self._engine.close()
        elif self._model is not None:
            self._model = None
            # a worker freezes what its constructor made, this model too
            gc.unfreeze()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self._model = self._engine = None
