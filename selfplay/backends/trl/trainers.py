"""TRL's own trainers, taught to take pairs as selfplay has them (stage *train*): token ids in, cached
reference log-probs.

`DPOTrainer` computes every loss itself, and so does `CPOTrainer` (SimPO; experimental in TRL). What is
changed: no tokenising, no reference model and no reference forward, rows in our order, and an optimizer step
whose gradient is the mean over its pairs however they are cut into micro-batches (TRL averages the means of
micro-batches, which weighs the pairs of a short last one more).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer

from selfplay.backends.trl.rows import IGNORED_LABEL, RowOrder, dpo_columns, simpo_row
from selfplay.core.errors import BackendError, ConfigError
from selfplay.core.protocols import TrainJob


@dataclass(frozen=True, slots=True)
class Measured:
    """What a trainer computes on one batch of B pairs without training: its loss (mean over the pairs) and
    its own summed log-probs, each a list of B floats."""

    loss: float
    chosen_logps: list[float]
    rejected_logps: list[float]


class _Pairs:
    """What both trainers share; goes before TRL's class."""

    # The loss that compute_loss returns is already this micro-batch's share of the whole step's mean.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, row_order: RowOrder, **kwargs: Any) -> None:
        self.row_order = row_order
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:
        return self.row_order

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> int:
        """Pairs in one optimizer step."""
        return sum(self.num_pairs(batch) for batch in batch_samples)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> Any:
        num_pairs = self.num_pairs(inputs)
        loss = super().compute_loss(model, inputs)  # type: ignore[misc]
        return loss if num_items_in_batch is None else loss * (num_pairs / num_items_in_batch)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A checkpoint's weights must fit: transformers would warn and train on with what it had."""
        tied = set(self.model.all_tied_weights_keys)  # type: ignore[attr-defined]
        odd = [*(set(load_result.missing_keys) - tied), *load_result.unexpected_keys]
        if odd:
            raise BackendError(
                f"a trainer checkpoint does not hold the policy's weights: {', '.join(sorted(odd)[:5])}",
                "Set training.checkpoint_every: 0 for this architecture, and remove the checkpoint.",
            )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None is written: it would look things up on the hub, and the policy is a part of a run."""

    def _send_telemetry(self) -> None:
        """None is sent."""

    def num_pairs(self, inputs: Any) -> int:
        """Pairs in a collated batch."""
        raise NotImplementedError


class PairDPOTrainer(_Pairs, DPOTrainer):
    """DPOTrainer on token ids with cached reference log-probs."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def num_pairs(self, inputs: Any) -> int:
        return len(inputs["ref_chosen_logps"])

    def measure(self, inputs: Any) -> Measured:
        """Loss and log-probs of a collated batch, through the same forward that trains."""
        self.model.eval()
        inputs = self._prepare_inputs(inputs)
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED_LABEL)
        with torch.no_grad(), self.accelerator.autocast():
            loss = self.compute_loss(self.model, inputs)
            logps = self.model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                labels=labels,
                fused_lm_head=True,
                use_cache=False,
            ).log_probs.sum(dim=1)
        self._metrics["eval"].clear()
        chosen, rejected = logps.float().chunk(2)
        return Measured(float(loss), chosen.tolist(), rejected.tolist())


class _Rows(torch.utils.data.Dataset):
    """Rows that are tokenised already: CPOTrainer maps its dataset three times, which here changes
    nothing."""

    def __init__(self, rows: list[dict[str, list[int]]]) -> None:
        self._rows = rows

    def map(self, *args: Any, **kwargs: Any) -> _Rows:
        return self

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self._rows[index]


class PairSimPOTrainer(_Pairs, CPOTrainer):
    """CPOTrainer with the SimPO loss on token ids."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Of the metrics at the end of an epoch accelerate would cut each micro-batch of the step to the size of the last,
        # as if other processes had filled it up, and cut none after a resume. There is one process.
        self.accelerator.gather_for_metrics = self.accelerator.gather

    def num_pairs(self, inputs: Any) -> int:
        return len(inputs["chosen_input_ids"])

    def measure(self, inputs: Any) -> Measured:
        """Loss and log-probs of a collated batch; TRL's SimPO has mean log-probs, so they are multiplied by
        the lengths."""
        self.model.eval()
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            chosen, rejected = self.concatenated_forward(self.model, inputs)[:2]
            losses, _, _ = self.cpo_loss(chosen, rejected)
        chosen_lengths = (inputs["chosen_labels"] != IGNORED_LABEL).sum(dim=1)
        rejected_lengths = (inputs["rejected_labels"] != IGNORED_LABEL).sum(dim=1)
        return Measured(
            float(losses.mean()),
            (chosen.float() * chosen_lengths).tolist(),
            (rejected.float() * rejected_lengths).tolist(),
        )


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
            return PairSimPOTrainer(train_dataset=_Rows([simpo_row(pair) for pair in job.pairs]), **common)
        return PairDPOTrainer(train_dataset=Dataset.from_dict(dpo_columns(job.pairs)), **common)
    except (ValueError, NotImplementedError) as error:
        # TRL checks some values and combinations only here
        raise ConfigError(
            f"TRL refuses the training's settings: {error}", "Look at the keys under training.trl."
        ) from error
