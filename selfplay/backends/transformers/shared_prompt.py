"""One pass over a prompt for all of its responses, for rewards (score) and log-probs (logprobs).

Rows that begin with the same tokens have the same keys and values there, if attention is causal and full. These are computed
once; each batch of continuations reads them. Eight responses as long as their prompt are then 9 lengths of tokens instead of 16.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from selfplay.backends.transformers.attention import has_full_causal_attention
from selfplay.backends.transformers.batching import token_batches
from selfplay.backends.transformers.padding import pad_right
from selfplay.core.heartbeat import beat

# A prompt is shared where that saves this part of the tokens of its rows: below it the second pass and the reads of the cache
# cost as much (`python -m benchmarks logprobs`).
_MIN_SAVED = 0.3
# And where it saves so many tokens: to keep a prompt and to read it for each row costs about as much as they do. With prompts of
# 13 tokens for two rows each it took 1.1 times the processor time of passes over whole rows.
_MIN_SAVED_TOKENS = 32
# Rows in the comparison with the plain pass, and the error that is allowed, relative to the result where that is above 1: the
# largest in float32, the mean in a narrower dtype, where single results scatter by rounding.
_NUM_CHECKED = 8
_MAX_ERROR_FLOAT32 = 1e-5
_MEAN_ERROR_NARROW = 0.02


@dataclass(frozen=True, slots=True)
class SharedRows:
    """Rows by their number in a call, each as the prompt that it begins with and the tokens after that."""

    prompts: list[list[int]]
    rows: list[int]
    prompt_of_row: list[int]
    suffixes: list[list[int]]

    def few(self, most_tokens: int) -> SharedRows:
        """Rows of the longest and the shortest prompt, by turns: one at least, else so many that they have `most_tokens` with
        padding. Their prompts are padded as in a pass over all."""
        by_length = sorted(range(len(self.prompts)), key=lambda number: -len(self.prompts[number]))
        chosen = [*dict.fromkeys((by_length[0], by_length[-1]))]
        of_prompt = [[i for i, number in enumerate(self.prompt_of_row) if number == prompt] for prompt in chosen]
        places = [place for turn in zip_longest(*of_prompt) for place in turn if place is not None]
        longest = len(self.prompts[chosen[0]]) + max(len(self.suffixes[place]) for place in places)
        places = places[: max(1, min(_NUM_CHECKED, most_tokens // longest))]
        return SharedRows(
            [self.prompts[number] for number in chosen],
            [self.rows[place] for place in places],
            [chosen.index(self.prompt_of_row[place]) for place in places],
            [self.suffixes[place] for place in places],
        )


def shared_rows(token_ids: Sequence[Sequence[int]], groups: Sequence[Hashable], most: Sequence[int]) -> SharedRows:
    """The rows that are worth a pass of their own over what they share. Rows of the same group begin with the same tokens: as
    many as they all have in common, `most` of a row at most."""
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    found = SharedRows([], [], [], [])
    for rows in members.values():
        if len(rows) < 2:
            continue
        size = min(most[row] for row in rows)
        first = token_ids[rows[0]]
        for row in rows[1:]:
            size = next((i for i in range(size) if token_ids[row][i] != first[i]), size)
        saved, num_tokens = (len(rows) - 1) * size, sum(len(token_ids[row]) for row in rows)
        if saved < max(_MIN_SAVED_TOKENS, _MIN_SAVED * num_tokens):
            continue
        found.rows.extend(rows)
        found.prompt_of_row.extend([len(found.prompts)] * len(rows))
        found.suffixes.extend([*token_ids[row][size:]] for row in rows)
        found.prompts.append([*first[:size]])
    return found


@dataclass(frozen=True, slots=True)
class Task:
    """What is computed of each row: one number, from the logits of the tokens after what is shared (`read`, which is given the
    logits of a batch and the numbers of its rows) or in a plain pass over whole rows (`plain`, given such numbers).

    `batch_tokens` bounds the tokens of a batch, rows x (prompt + longest suffix); `batch_share`, by default as many, those that
    need logits, rows x longest suffix. `pad` chooses the padding token for suffixes."""

    read: Callable[[torch.Tensor, list[int]], list[float]]
    plain: Callable[[list[int]], list[float]]
    batch_tokens: int
    batch_share: int | None = None
    pad: Callable[[list[list[int]]], int] = lambda suffixes: 0

    @property
    def share(self) -> int:
        """`batch_share` or its default."""
        return self.batch_tokens if self.batch_share is None else self.batch_share


class SharedPrompts:
    """One pass over a prompt for the rows that begin with it, if the loaded model then gives the same results."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.possible = _can_share(model)
        self._is_checked = False

    def results(
        self, token_ids: Sequence[Sequence[int]], groups: Sequence[Hashable], most: Sequence[int], task: Task
    ) -> dict[int, float]:
        """The results, by row, of the rows for which sharing saves work (see `shared_rows`); the others are left to the caller.
        Empty where the model does not allow it: a few rows are compared with a plain pass once."""
        if not self.possible:
            return {}
        shared = shared_rows(token_ids, groups, most)
        if not shared.rows:
            return {}
        if not self._is_checked:
            few = shared.few(min(task.batch_tokens, task.share))
            ours = self._forward(few, task)
            self.possible = bool(ours) and _agree(ours, task.plain(few.rows), self._model.dtype)
            self._is_checked = True
        return dict(zip(shared.rows, self._forward(shared, task), strict=True)) if self.possible else {}

    def _forward(self, shared: SharedRows, task: Task) -> list[float]:
        """The results of the rows of `shared`; fewer where the model keeps no prompts."""
        found: dict[int, float] = {}
        for batch, arguments in self._batches(shared, task):
            with torch.inference_mode():
                logits = self._model(**arguments).logits
            del arguments  # the next pass over prompts keeps as much
            found |= zip(batch, task.read(logits, [shared.rows[position] for position in batch]), strict=True)
            beat()
        return [found[position] for position in sorted(found)]

    def _batches(self, shared: SharedRows, task: Task) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Positions in `shared` and the arguments of the model for their suffixes: input_ids, attention_mask, position_ids,
        past_key_values. Yields nothing more where the model keeps no keys and values of a prompt."""
        pad = task.pad(shared.suffixes)
        for chosen in token_batches([len(prompt) for prompt in shared.prompts], task.batch_tokens):
            prompts = _PromptPass(self._model, [shared.prompts[number] for number in chosen])
            if not prompts.is_kept:
                return
            place = {number: index for index, number in enumerate(chosen)}
            here = [index for index, number in enumerate(shared.prompt_of_row) if number in place]
            suffixes = [shared.suffixes[index] for index in here]
            lengths = [prompts.width + len(suffix) for suffix in suffixes]
            spans = [len(suffix) for suffix in suffixes]
            for batch in token_batches(lengths, task.batch_tokens, rows_share=spans, batch_share=task.share):
                of_row = [place[shared.prompt_of_row[here[index]]] for index in batch]
                yield (
                    [here[index] for index in batch],
                    prompts.arguments(of_row, [suffixes[index] for index in batch], pad),
                )
            del prompts  # before the next pass keeps as much


class _PromptPass:
    """Keys and values of G prompts, padded on the right."""

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        self._device = model.get_input_embeddings().weight.device
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        self.width = max(map(len, prompts))
        input_ids, self._mask = pad_right(prompts, 0, self._device)
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model.base_model(input_ids=input_ids, attention_mask=self._mask, past_key_values=cache, use_cache=True)
        self._layers = cache.layers
        self.is_kept = bool(cache.layers) and all(layer.get_seq_length() == self.width for layer in cache.layers)

    def arguments(self, prompt_of_row: list[int], suffixes: list[list[int]], pad_token_id: int) -> dict[str, Any]:
        """The arguments of the model for a batch of suffixes."""
        of_row = torch.tensor(prompt_of_row, device=self._device)
        input_ids, mask = pad_right(suffixes, pad_token_id, self._device)
        # a padded place must not lie beyond a learned position table
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        return {
            "input_ids": input_ids,
            "attention_mask": torch.cat([self._mask[of_row], mask], dim=-1),
            "position_ids": self._lengths[of_row, None] + places,
            "past_key_values": Cache(layers=[_ReadLayer(layer, of_row) for layer in self._layers]),
            "use_cache": True,
        }


class _ReadLayer(DynamicLayer):
    """A layer's keys and values of prompts, of which each row reads its own. What follows is not kept: one pass is all there
    is, so that the copies of one layer are in memory at a time."""

    def __init__(self, layer: DynamicLayer, of_row: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self._of_row = layer.keys, layer.values, of_row
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows' keys and values, those of the prompt first."""
        keys = torch.cat([self.keys[self._of_row], key_states], dim=-2)
        return keys, torch.cat([self.values[self._of_row], value_states], dim=-2)


def _can_share(model: Any) -> bool:
    """Whether a model is a plain decoder with full attention that reads a cache: what the results of a few rows then confirm."""
    config = model.config
    if config.get_text_config() is not config or not has_full_causal_attention(model):
        return False
    if not {"past_key_values", "use_cache"} <= {*inspect.signature(model.base_model.forward).parameters}:
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def _agree(ours: list[float], plain: list[float], dtype: torch.dtype) -> bool:
    errors = [abs(one - other) / max(1.0, abs(other)) for one, other in zip(ours, plain, strict=True)]
    if not all(map(math.isfinite, errors)):
        return False
    if dtype == torch.float32:
        return max(errors) <= _MAX_ERROR_FLOAT32
    return math.fsum(errors) / len(errors) <= _MEAN_ERROR_NARROW
