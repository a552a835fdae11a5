"""Stage *score*: a Hugging Face sequence-classification model with one label as a `Scorer`.

The model reads messages through its *own* tokenizer and chat template, never the policy's tokens or rendering.
A response it cannot judge gets a null reward and the reason: nothing is truncated, and no failure becomes a
number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from transformers import AutoModelForSequenceClassification

from selfplay.backends.transformers.attention import check_attention
from selfplay.backends.transformers.batching import token_batches
from selfplay.backends.transformers.device import BATCH_TOKENS, this_device, torch_dtype
from selfplay.backends.transformers.loading import load_complete
from selfplay.backends.transformers.positions import usable_positions
from selfplay.backends.transformers.shared_prompt import SharedPrompts, SharedRows, shared_rows
from selfplay.core.errors import ConfigError, DataError, ModelError
from selfplay.core.heartbeat import beat
from selfplay.core.protocols import ScoreItem
from selfplay.core.score_table import Outcome, finite, score_table
from selfplay.inputs.models.chat import ChatRenderer, load_tokenizer
from selfplay.inputs.models.files import model_folder
from selfplay.inputs.models.preflight import check_reward_model
from selfplay.inputs.models.sizes import tokenizer_limit

TOO_LONG = "too_long_for_reward_model"


class RewardModel:
    """A reward model on the device of its process (CUDA where there is one, else the CPU).

    `dtype`: "auto" is float32 on a CPU and bfloat16 on CUDA, else a torch dtype's name. `batch_tokens`: padded
    tokens in a forward pass; None: by the device. `max_length`: tokens of a whole conversation, at most (and by default) what the
    model has positions for. `sees`: "final" scores a response's final answer (`ScoreItem.final_answer`), "full"
    all of its text. `threads`: CPU threads.

    Raises ModelError for a folder that `check_reward_model` refuses or whose weights do not fill the model,
    ConfigError for a setting out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        batch_tokens: int | None = None,
        max_length: int | None = None,
        sees: str = "final",
        trust_remote_code: bool = False,
        threads: int = 1,
    ) -> None:
        if sees not in ("final", "full"):
            raise ConfigError(f"reward.sees is {sees!r}", "Use final or full.")
        folder = model_folder(model, revision)
        check_reward_model(folder, trust_remote_code=trust_remote_code)
        torch.set_num_threads(threads)
        self._folder, self._sees = str(folder), sees
        self._device = this_device()
        self._batch_tokens = batch_tokens or BATCH_TOKENS[self._device.type]
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        self._renderer = ChatRenderer(tokenizer)
        self._model = _load(self._folder, torch_dtype(dtype, self._device, "reward.dtype"), trust_remote_code).to(
            self._device
        )
        self._config = self._model.config.get_text_config()
        self._config.use_cache = False  # one pass needs no keys and values afterwards
        self._pad_token_id = _usable_pad(self._config)
        self._max_length = _max_length(max_length, self._model, tokenizer)
        self._shared_prompts = SharedPrompts(self._model)
        self._attention_is_checked = False

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        """Rewards in the order of `items`, as SCORE_SCHEMA: a reward or a drop_reason, never both and never
        neither."""
        outcomes: list[Outcome | None] = []
        token_ids: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            token_ids[place], reason = self._render(item)
            outcomes.append((None, reason) if reason else None)
        places = [place for place, outcome in enumerate(outcomes) if outcome is None]
        if places and not self._attention_is_checked:
            check_attention(self._model, self._folder, [token_ids[place] for place in places])
            self._attention_is_checked = True
        shared = self._shared([items[place] for place in places], [token_ids[place] for place in places])
        if shared.rows:
            rewards = self._forward_shared(shared)
            for row, reward in zip(shared.rows, rewards, strict=True):
                again = not math.isfinite(reward)
                outcomes[places[row]] = finite(self._forward([token_ids[places[row]]])[0] if again else reward)
            done = {*shared.rows}
            places = [place for row, place in enumerate(places) if row not in done]
        for batch in token_batches([len(token_ids[place]) for place in places], self._batch_tokens):
            chosen = [places[position] for position in batch]
            rewards = self._forward([token_ids[place] for place in chosen])
            beat()
            for place, reward in zip(chosen, rewards, strict=True):
                # Alone there is no padding: NaN in the padding token's own embedding must not spoil its neighbours.
                alone = not math.isfinite(reward) and len(chosen) > 1
                outcomes[place] = finite(self._forward([token_ids[place]])[0] if alone else reward)
        return score_table(items, [outcome for outcome in outcomes if outcome is not None])

    def _render(self, item: ScoreItem) -> tuple[list[int], str | None]:
        """Token ids of the conversation with the response, or none and the reason why it cannot be scored."""
        response = item.response
        if self._sees == "final":
            if item.no_answer is not None:
                return [], item.no_answer
            response = item.response if item.final_answer is None else item.final_answer
        try:
            ids = self._renderer.conversation([*item.messages, {"role": "assistant", "content": response}])
        except DataError as error:
            return [], f"not_rendered: {' '.join(error.message.split())[:200]}"
        return ([], TOO_LONG) if len(ids) > self._max_length else (ids, None)

    def _shared(self, items: list[ScoreItem], rows: list[list[int]]) -> SharedRows:
        """The rows that share a pass over their prompt with others; none where the model does not allow it."""
        none = SharedRows([], [], [], [])
        if not self._shared_prompts.possible:
            return none
        prompts = [tuple((turn["role"], turn["content"]) for turn in item.messages) for item in items]
        # what is left of each row has the token whose score is taken: the last that is not the padding token
        shared = shared_rows(rows, prompts, [_last(row, self._pad_token_id) for row in rows])
        if not shared.rows:
            return none
        agrees = self._shared_prompts.check(
            shared, self._batch_tokens, self._forward_shared, lambda few: self._forward([rows[row] for row in few])
        )
        return shared if agrees else none

    def _forward_shared(self, shared: SharedRows) -> list[float]:
        """Rewards of the rows of `shared`; fewer where the model keeps no prompts."""
        pad = self._padding_for(shared.suffixes)
        rewards: dict[int, float] = {}
        for batch, arguments in self._shared_prompts.batches(shared, self._batch_tokens, pad):
            with torch.inference_mode():
                logits = self._model(**arguments).logits
            del arguments  # the next pass over prompts keeps as much
            rewards |= zip(batch, logits[:, 0].float().tolist(), strict=True)
            beat()
        return [rewards[position] for position in sorted(rewards)]

    def _forward(self, rows: list[list[int]]) -> list[float]:
        """Rewards of one batch, padded on the right."""
        pad = self._padding_for(rows)
        width = max(map(len, rows))
        input_ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=input_ids, attention_mask=mask).logits
        return [float(value) for value in logits[:, 0].float().tolist()]

    def _padding_for(self, rows: list[list[int]]) -> int:
        """The padding token for a batch.

        transformers takes the score of the last token that is not the padding token. A model that was saved without one was used
        one by one, with the score of the very last token; so it is padded with a token that no row ends with."""
        pad = self._pad_token_id
        if pad is None:
            ends = {row[-1] for row in rows}
            pad = next(token for token in range(len(ends) + 1) if token not in ends)
            self._config.pad_token_id = pad
        return pad


def _load(folder: str, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The model in evaluation mode. Raises ModelError as `load_complete`, and for more than one label."""
    kind = AutoModelForSequenceClassification
    model = load_complete(kind, folder, dtype, "reward model", trust_remote_code=trust_remote_code)
    if model.config.num_labels != 1:
        raise ModelError(
            f"the reward model in {folder} has {model.config.num_labels} labels; a reward is one number",
            "Use a reward model with num_labels = 1, or wrap this one in a reward function.",
        )
    return model.eval()


def _last(row: list[int], pad: int | None) -> int:
    """The place of the last token that is not the padding token; 0 where there is none."""
    return next((place for place in range(len(row) - 1, 0, -1) if row[place] != pad), 0)


def _usable_pad(config: Any) -> int | None:
    """The config's padding token, None where it has none (some configs write -1 for that)."""
    pad = config.pad_token_id
    return pad if pad is not None and 0 <= pad < config.vocab_size else None


def _max_length(asked: int | None, model: Any, tokenizer: Any) -> int:
    """The longest conversation in tokens: the smallest of what was asked for and what model and tokenizer can
    take."""
    found = (tokenizer_limit(tokenizer), usable_positions(model))
    limits = [limit for limit in found if limit is not None]
    if asked is None and not limits:
        raise ConfigError("the reward model names no longest input", "Set reward.max_length.")
    if asked is not None and limits and asked > min(limits):
        raise ConfigError(
            f"reward.max_length is {asked}, the reward model takes {min(limits)} tokens",
            "Lower it or leave it out: longer conversations are dropped with a reason, never cut.",
        )
    return min(limits) if asked is None else asked
