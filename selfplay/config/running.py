"""The sections about the machine, storage, reports and trackers: none of them changes the rows of a run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from selfplay.config.section import Section, refuse
from selfplay.config.tags import resource


class GatesConfig(Section):
    """Limits of a round's data and training, beyond which the run stops. 1.0 or null disables a limit."""

    max_empty: float = resource(0.5, "largest fraction of a round's responses that may be empty", ge=0, le=1)
    max_truncated: float = resource(
        0.98, "largest fraction of responses that may be cut at the length limit", ge=0, le=1
    )
    max_repeated: float = resource(0.9, "largest fraction of responses that may have the same text", ge=0, le=1)
    max_identical: float = resource(
        0.98, "largest fraction of prompts whose responses may all have the same text", ge=0, le=1
    )
    max_loss: float | None = resource(100.0, "largest loss of an optimizer step", gt=0)
    max_grad_norm: float | None = resource(1e5, "largest gradient norm of an optimizer step, before clipping", gt=0)
    max_update: float | None = resource(
        1.0,
        "largest norm of the change of the weights over the norm of the weights; a policy beyond it is not kept",
        gt=0,
    )


class RoleConfig(Section):
    """Worker processes of one kind."""

    replicas: int = resource(1, "worker processes", ge=1)
    num_cpus: float = resource(0, "CPUs that Ray reserves for each; 0: workers take turns on the same cores", ge=0)
    num_gpus: float | None = resource(
        None, "GPUs that Ray reserves for each; not set: the workers share the machine's GPUs", ge=0
    )
    threads: int = resource(1, "threads of one process", ge=1)
    resources: dict[str, float] = resource({}, "custom Ray resources for each")


class ClusterConfig(Section):
    """Where the work runs."""

    address: str | None = resource(None, "address of a Ray cluster; not set: a local one is started")
    sampler: RoleConfig = resource(RoleConfig(), "vLLM engines")
    scorer: RoleConfig = resource(RoleConfig(), "reward models and functions")
    logprobs: RoleConfig = resource(RoleConfig(), "teacher-forced log-probs")
    trainer: RoleConfig = resource(RoleConfig(), "the trainer (one process)")
    overlap: bool | Literal["auto"] = resource(
        "auto",
        "whether stages work side by side, each on the finished shards of the one before; auto: where the workers of both "
        "have devices of their own (whole GPUs or reserved CPUs)",
    )
    retries: int = resource(2, "dead or hung workers that are replaced in a row, without a result in between", ge=0)
    start_timeout: float = resource(300.0, "seconds a worker may take to start", gt=0)
    heartbeat_timeout: float = resource(
        1800.0, "seconds without progress after which a worker counts as hung and is killed; 0: never", ge=0
    )
    max_poison_items: int = resource(
        8,
        "most prompts or responses that a stage may quarantine because they crash their worker",
        ge=0,
    )

    @model_validator(mode="after")
    def _one_trainer(self) -> Self:
        if self.trainer.replicas != 1:
            raise ValueError("training runs in one process: trainer.replicas is 1")
        return self


class TrackingConfig(Section):
    """Trackers that a run's numbers are sent to."""

    to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = resource(
        [], "any of tensorboard, wandb, mlflow, trackio; you install their packages"
    )
    project: str = resource("selfplay", "name of the project or experiment")
    log_text: bool = resource(False, "also send a few example pairs of each round (`--log-text`)")

    @model_validator(mode="after")
    def _to_some(self) -> Self:
        if len(set(self.to)) < len(self.to):
            raise ValueError(f"`to` names a tracker twice: {', '.join(self.to)}")
        if not self.to:
            refuse(self, ("project", "log_text"), "does nothing without tracking.to")
        return self


class StorageConfig(Section):
    """What is kept on disk. Datasets are always kept. A deleted policy leaves a record, which `verify` checks."""

    keep_policies: int | Literal["all"] = resource(
        2,
        "number of the newest policies that are kept (2 or more), beside the best by the held-out judge; `all`: every one",
    )
    keep_trainer_checkpoints: int = resource(
        1, "number of sealed trainer checkpoints that are kept during a training", ge=1
    )
    check_free_space: bool = resource(
        True, "refuse to start a stage that by an upper estimate does not fit on the disk"
    )

    @model_validator(mode="after")
    def _at_least_two(self) -> Self:
        if self.keep_policies != "all" and self.keep_policies < 2:
            raise ValueError("`keep_policies` is 2 or more, or all: the last two policies always stay")
        return self

    @property
    def num_policies(self) -> int | None:
        """`keep_policies` as a number; None: all."""
        return None if self.keep_policies == "all" else self.keep_policies


class ReportConfig(Section):
    """The report that a run writes (`report.html`, with a README.md)."""

    every: int = resource(1, "rounds between reports; 0: the run writes none", ge=0)
    redact: bool = resource(False, "leave out all text of prompts and responses")

    @model_validator(mode="after")
    def _written(self) -> Self:
        if self.every == 0:
            refuse(self, ("redact",), "does nothing with report.every: 0")
        return self
