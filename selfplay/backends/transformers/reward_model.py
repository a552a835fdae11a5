"""Stage *score*: a Hugging Face sequence-classification model with one label as a `Scorer`. `backends/reward_rows.py` makes what
it is given of a response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from transformers import AutoModelForSequenceClassification

from selfplay.backends.reward_rows import RewardRows, Rows, last_token
from selfplay.backends.transformers.attention import check_attention
from selfplay.backends.transformers.batching import token_batches
from selfplay.backends.transformers.device import BATCH_TOKENS, this_device, torch_dtype
from selfplay.backends.transformers.loading import load_complete
from selfplay.backends.transformers.padding import pad_right
from selfplay.backends.transformers.positions import usable_positions
from selfplay.backends.transformers.shared_prompt import SharedPrompts, Task
from selfplay.core.errors import ModelError
from selfplay.core.heartbeat import beat
from selfplay.core.protocols import ScoreItem
from selfplay.inputs.models.chat import load_tokenizer
from selfplay.inputs.models.files import model_folder
from selfplay.inputs.models.preflight import check_reward_model


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
        folder = model_folder(model, revision)
        check_reward_model(folder, trust_remote_code=trust_remote_code)
        torch.set_num_threads(threads)
        self.folder = str(folder)
        self._device = this_device()
        self.batch_tokens = batch_tokens or BATCH_TOKENS[self._device.type]
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        self._model = _load(self.folder, torch_dtype(dtype, self._device, "reward.dtype"), trust_remote_code).to(
            self._device
        )
        self._config = self._model.config.get_text_config()
        self._config.use_cache = False  # one pass needs no keys and values afterwards
        self.pad_token_id = _usable_pad(self._config)
        self.rows = RewardRows(tokenizer, sees=sees, max_length=max_length, positions=usable_positions(self._model))
        self._shared_prompts = SharedPrompts(self._model)
        self._attention_is_checked = False

    def score(self, items: Sequence[ScoreItem]) -> pa.Table:
        """Rewards in the order of `items`, as SCORES_SCHEMA: a reward or a drop_reason, never both and never
        neither."""
        return self.rows.score(items, self.rewards)

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""
        return sum(weight.nbytes for weight in self._model.parameters())

    def rewards(self, rows: Rows) -> list[float]:
        """One number for each row; what is not finite was computed alone."""
        if not self._attention_is_checked:
            check_attention(self._model, self.folder, rows.token_ids)
            self._attention_is_checked = True
        found = self._shared_prompts.results(
            rows.token_ids,
            rows.prompts,
            # what is left of each row has the token whose score is taken: the last that is not the padding token
            [last_token(row, self.pad_token_id) for row in rows.token_ids],
            Task(
                lambda logits, _: logits[:, 0].float().tolist(),
                lambda numbers: self._forward([rows.token_ids[number] for number in numbers]),
                self.batch_tokens,
                pad=self._padding_for,
            ),
        )
        left = [number for number in range(len(rows.token_ids)) if number not in found]
        for batch in token_batches([len(rows.token_ids[number]) for number in left], self.batch_tokens):
            chosen = [left[place] for place in batch]
            found |= zip(chosen, self._forward([rows.token_ids[number] for number in chosen]), strict=True)
            beat()
        for number, reward in found.items():
            if not math.isfinite(reward):
                # Alone there is no padding: NaN in the padding token's own embedding must not spoil its neighbours.
                found[number] = self._forward([rows.token_ids[number]])[0]
        return [found[number] for number in range(len(rows.token_ids))]

    def _forward(self, rows: list[list[int]]) -> list[float]:
        """Rewards of one batch, padded on the right."""
        input_ids, mask = pad_right(rows, self._padding_for(rows), self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=input_ids, attention_mask=mask).logits
        return [float(value) for value in logits[:, 0].float().tolist()]

    def _padding_for(self, rows: list[list[int]]) -> int:
        """The padding token for a batch.

        transformers takes the score of the last token that is not the padding token. A model that was saved without one was used
        one by one, with the score of the very last token; so it is padded with a token that no row ends with."""
        pad = self.pad_token_id
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


def _usable_pad(config: Any) -> int | None:
    """The config's padding token, None where it has none (some configs write -1 for that)."""
    pad = config.pad_token_id
    return pad if pad is not None and 0 <= pad < config.vocab_size else None
