"""The private parts of TRL's trainers that selfplay overrides, all of them in this file (stage *train*).

The trainers take pairs as selfplay has them: token ids, and cached reference log-probs. TRL computes every loss itself:
`DPOTrainer`, and `CPOTrainer` for SimPO (experimental in TRL). Changed are: no tokenization, no reference model and no reference
forward, rows in selfplay's order, and an optimizer step whose gradient is the mean over its pairs however they are split into
micro-batches (TRL averages the means of micro-batches, which gives the pairs of a short last one a larger weight).

Tested with the versions of `core.versions.TESTED["trl"]`. Check each override here before that range is widened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer

from selfplay.backends.trl.rows import IGNORED_LABEL, RowOrder
from selfplay.core.errors import BackendError


@dataclass(frozen=True, slots=True)
class Measured:
    """What a trainer computes on one batch of B pairs without training: its loss (mean over the pairs) and
    its own summed log-probs, each a list of B floats."""

    loss: float
    chosen_logps: list[float]
    rejected_logps: list[float]


class _PairTrainerMixin:
    """Overrides that both trainers share. It precedes TRL's class in the list of bases."""

    # compute_loss returns this micro-batch's share of the mean over the whole step.
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
        """A checkpoint's weights must fit: transformers would only warn and continue with the weights in memory."""
        tied = set(self.model.all_tied_weights_keys)  # type: ignore[attr-defined]
        odd = [*(set(load_result.missing_keys) - tied), *load_result.unexpected_keys]
        if odd:
            raise BackendError(
                f"a trainer checkpoint does not contain the policy's weights: {', '.join(sorted(odd)[:5])}",
                "Set training.checkpoint_every: 0 for this architecture, and delete the checkpoint.",
            )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: it would request data from the hub, and the policy is a part of a run."""

    def _send_telemetry(self) -> None:
        """Send no telemetry."""

    def num_pairs(self, inputs: Any) -> int:
        """Pairs in a collated batch."""
        raise NotImplementedError


class PairDPOTrainer(_PairTrainerMixin, DPOTrainer):
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


class PairSimPOTrainer(_PairTrainerMixin, CPOTrainer):
    """CPOTrainer with the SimPO loss on token ids."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # At the end of an epoch accelerate would cut the metrics of each micro-batch to the size of the last one, as if other
        # processes had padded it, but not after a resume. There is only one process.
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
