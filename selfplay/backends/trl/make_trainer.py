"""Creates the TRL trainer of a job (stage *train*)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from datasets.table import InMemoryTable

from selfplay.backends.trl.private_api import PairDPOTrainer, PairSimPOTrainer
from selfplay.backends.trl.rows import RowOrder, dpo_table, simpo_row
from selfplay.core.errors import ConfigError
from selfplay.core.protocols import TrainJob, TrainPair


class _Rows(torch.utils.data.Dataset):
    """Tokenized rows, made when they are read. CPOTrainer calls `map` three times to tokenize its dataset; here that changes
    nothing."""

    def __init__(self, pairs: Sequence[TrainPair]) -> None:
        self._pairs = pairs

    def map(self, *args: Any, **kwargs: Any) -> _Rows:
        return self

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return simpo_row(self._pairs[index])


def make_trainer(job: TrainJob, args: Any, model: Any, tokenizer: Any, peft_config: Any) -> Any:
    """The trainer of `job.loss` around `model`; `args` is its DPOConfig or CPOConfig. Raises ConfigError."""
    common = {
        "model": model,
        "args": args,
        "processing_class": tokenizer,
        "peft_config": peft_config,
        "row_order": RowOrder(job.pairs, job.seed, job.batch_size),
    }
    try:
        if job.loss == "simpo":
            return PairSimPOTrainer(train_dataset=_Rows(job.pairs), **common)
        return PairDPOTrainer(train_dataset=Dataset(InMemoryTable(dpo_table(job.pairs))), **common)
    except (ValueError, NotImplementedError) as error:
        # TRL checks some values and combinations only in the constructor
        raise ConfigError(
            f"TRL rejects the training settings: {error}", "Check the keys under training.trl."
        ) from error
