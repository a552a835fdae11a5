"""The private parts of TRL's trainers that selfplay overrides, all of them in this file (stage *train*).

The trainers take pairs as selfplay has them: token ids, and cached reference log-probs. TRL computes every loss itself:
`DPOTrainer`, and `CPOTrainer` for SimPO (experimental in TRL). Changed are: no tokenization, no reference model and no reference
forward, no hash of the model, rows in selfplay's order, log-probs by response_head.py, and an optimizer step that is one batch
of the data loader: a list of micro-batches, whose gradients add up to that of the mean over the step's pairs. (TRL averages the
means of micro-batches, which gives the pairs of a small one a larger weight.)

Tested with the versions of `core.versions.TESTED["trl"]`. Check each override here before that range is widened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.trainer import dpo_trainer

from selfplay.backends.trl.micro_batches import MicroBatch, num_pairs
from selfplay.backends.trl.pair_rows import may_share
from selfplay.backends.trl.response_head import add_response_head
from selfplay.backends.trl.rows import IGNORED_LABEL, RowOrder
from selfplay.core.errors import BackendError
from selfplay.core.heartbeat import beat


@dataclass(frozen=True, slots=True)
class Measured:
    """The values of a trainer on B pairs without training: its loss (mean over the pairs) and its own summed log-probs, each
    a list of B floats."""

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
        # At the end of an epoch accelerate would cut the metrics of each micro-batch to the number of pairs of the last step, as
        # if other processes had padded it, but not after a resume. There is only one process.
        self.accelerator.gather_for_metrics = self.accelerator.gather  # type: ignore[attr-defined]

    def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:
        return self.row_order

    def _get_num_items_in_batch(self, batch_samples: list[list[MicroBatch]], device: Any) -> int:
        """Pairs in one optimizer step."""
        return sum(num_pairs(batch) for step in batch_samples for batch in step)

    def training_step(self, model: Any, inputs: list[MicroBatch], num_items_in_batch: int | None = None) -> Any:
        """Forward and backward of all micro-batches of an optimizer step; returns its loss."""
        loss: Any = 0.0
        for batch in inputs:
            loss += super().training_step(model, batch, num_items_in_batch)  # type: ignore[misc]
            beat()
        self._merge_metrics([num_pairs(batch) for batch in inputs])
        return loss

    def compute_loss(
        self, model: Any, inputs: MicroBatch, return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> Any:
        loss = super().compute_loss(model, inputs)  # type: ignore[misc]
        return loss if num_items_in_batch is None else loss * (num_pairs(inputs) / num_items_in_batch)

    def share_prompts(self, wanted: bool) -> None:
        """Compute a prompt once for both of its responses, where the config of the model allows it, or no longer. Whether the
        log-probs stay what they are is for the caller to check."""
        # the load-balancing loss of a mixture of experts counts each token of the padded batch
        shares = wanted and not self.aux_loss_enabled and may_share(self.model)  # type: ignore[attr-defined]
        self.model.response_head.shares_prompts = shares  # type: ignore[attr-defined]
        self.data_collator.shares_prompts = shares  # type: ignore[attr-defined]

    @property
    def shares_prompts(self) -> bool:
        """Whether a prompt is computed once for both of its responses."""
        return bool(self.data_collator.shares_prompts)  # type: ignore[attr-defined]

    def measure(self, rows: Sequence[int], *, only_chosen: bool = False) -> Measured:
        """Loss and log-probs of rows of the dataset, in the order given, through the same forward that trains. `only_chosen`: of
        the rejected responses only the first token is computed, so that loss and their log-probs say nothing."""
        model: Any = self.model  # type: ignore[attr-defined]
        model.eval()
        found: list[torch.Tensor] = []
        hook = model.register_forward_hook(lambda module, args, output: found.append(output.log_probs.sum(dim=1)))
        data, collator = [self.train_dataset[row] for row in rows], self.data_collator  # type: ignore[attr-defined]
        if only_chosen:
            data = [{**row, "rejected_ids": row["rejected_ids"][:1]} for row in data]
        losses, chosen, rejected = [], [math.nan] * len(data), [math.nan] * len(data)
        try:
            for places in collator.cut(data):
                batch = self._prepare_inputs(collator.collate(data, places))  # type: ignore[attr-defined]
                with torch.no_grad(), self.accelerator.autocast():  # type: ignore[attr-defined]
                    losses.append(float(self.compute_loss(model, batch)) * len(places))
                logps = found.pop().float().chunk(2)
                for place, one, other in zip(places, *(half.tolist() for half in logps), strict=True):
                    chosen[place], rejected[place] = one, other
                beat()
        finally:
            hook.remove()
        for metrics in self._metrics_by_mode().values():
            metrics.clear()
        return Measured(math.fsum(losses) / len(data), chosen, rejected)

    def _merge_metrics(self, sizes: list[int]) -> None:
        """Make one value of those that micro-batches of these sizes have added to each metric: TRL would weight them alike."""
        for values in self._metrics_by_mode()["train"].values():
            if len(values) == len(sizes) > 1:
                values[:] = [sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)]

    def _metrics_by_mode(self) -> dict[str, dict[str, list[float]]]:
        """What TRL has collected for its next line of the log."""
        raise NotImplementedError

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


class PairDPOTrainer(_PairTrainerMixin, DPOTrainer):
    """DPOTrainer on token ids with cached reference log-probs."""

    def __init__(self, **kwargs: Any) -> None:
        # TRL hashes all weights: the key of its cache of reference log-probs, which is not used
        ours = {"hash_module": lambda module: "", "add_fused_lm_head": add_response_head}
        theirs = {name: getattr(dpo_trainer, name) for name in ours}
        vars(dpo_trainer).update(ours)
        try:
            super().__init__(**kwargs)
        finally:
            vars(dpo_trainer).update(theirs)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _metrics_by_mode(self) -> dict[str, dict[str, list[float]]]:
        metrics: dict[str, dict[str, list[float]]] = self._metrics
        return metrics


class PairSimPOTrainer(_PairTrainerMixin, CPOTrainer):
    """CPOTrainer with the SimPO loss on token ids."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        add_response_head(self.model.get_base_model() if kwargs["peft_config"] else self.model)

    def concatenated_forward(self, model: Any, batch: MicroBatch) -> tuple[torch.Tensor, ...]:
        """Mean log-probs of chosen and rejected responses, and zeros in the place of logits and of the language-model loss: TRL
        only logs them."""
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED_LABEL)
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=labels,
            fused_lm_head=True,
            use_cache=False,
            **router,
        )
        means = outputs.log_probs.sum(dim=1) / batch["completion_mask"].sum(dim=1)
        none = torch.zeros((), device=means.device)
        return (*means.chunk(2), none, none, none, *([outputs.aux_loss] if router else []))

    def _metrics_by_mode(self) -> dict[str, dict[str, list[float]]]:
        metrics: dict[str, dict[str, list[float]]] = self._stored_metrics
        return metrics
