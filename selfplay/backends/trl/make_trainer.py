"""Creates the TRL trainer of a job (stage *train*)."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from datasets.table import InMemoryTable

from selfplay.backends.trl.micro_batches import MICRO_BATCH_TOKENS, MicroBatches, most_padding
from selfplay.backends.trl.private_api import PairDPOTrainer, PairSimPOTrainer
from selfplay.backends.trl.rows import RowOrder, trl_table
from selfplay.core.errors import ConfigError
from selfplay.core.protocols import TrainJob


class _Rows(Dataset):
    """Rows of token ids. CPOTrainer calls `map` three times to tokenize its dataset; here that changes nothing."""

    def map(self, *args: Any, **kwargs: Any) -> _Rows:
        return self


def make_trainer(job: TrainJob, args: Any, model: Any, tokenizer: Any, peft_config: Any) -> Any:
    """The trainer of `job.loss` around `model`; `args` is its DPOConfig or CPOConfig. Raises ConfigError."""
    trainer = PairSimPOTrainer if job.loss == "simpo" else PairDPOTrainer
    try:
        return trainer(
            model=model,
            args=args,
            processing_class=tokenizer,
            peft_config=peft_config,
            train_dataset=_Rows(InMemoryTable(trl_table(job.pairs, reference=job.loss != "simpo"))),
            data_collator=MicroBatches(
                job.micro_batch_tokens or MICRO_BATCH_TOKENS[args.device.type],
                job.micro_batch_size,
                most_padding(args.device.type, model.num_parameters()),
            ),
            row_order=RowOrder(job.pairs, job.seed),
        )
    except (ValueError, NotImplementedError) as error:
        # TRL checks some values and combinations only in the constructor
        raise ConfigError(
            f"TRL rejects the training settings: {error}", "Check the keys under training.trl."
        ) from error
