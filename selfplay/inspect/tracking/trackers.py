"""The trackers, each behind the same three calls. Their packages are imported where a tracker is opened.

One tracker run stands for one run of ours: a resume goes on in it (Weights & Biases, MLflow and Trackio by the run's id;
TensorBoard writes into a folder for each attempt, and its viewer puts them side by side).
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from selfplay.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Target:
    """Where numbers go: `folder` is the attempt's own (absolute), `run_id` and `name` are those of the run."""

    project: str
    run_id: str
    name: str
    folder: Path


class Tracker(Protocol):
    """One open tracker."""

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers by name. `kind` is "train" (step: optimizer steps over all rounds) or "round" (step: the round)."""

    def text(self, name: str, step: int, text: str) -> None:
        """A text of a round."""

    def close(self) -> None:
        """Send the remaining data."""


class TensorBoard:
    """Event files in the attempt's folder, written without torch or tensorflow."""

    def __init__(self, target: Target) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(target.folder / "tensorboard"))

    def _add(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(step, [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in values.items()])

    def text(self, name: str, step: int, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
        self._add(step, [Summary.Value(tag=f"{name}/text_summary", metadata=metadata, tensor=tensor)])

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """One Weights & Biases run, each kind of number against its own step."""

    def __init__(self, target: Target) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=target.project, id=target.run_id, name=target.name, resume="allow", dir=str(target.folder),
            settings=wandb.Settings(
                console="off", disable_git=True, disable_code=True, x_disable_machine_info=True, x_disable_meta=True,
                x_disable_stats=True, silent=True,
            ),
        )  # fmt: skip
        for kind in ("train", "round"):
            self._run.define_metric(f"{kind}/step")
            self._run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"{kind}/step": step, **{f"{kind}/{name}": value for name, value in values.items()}})

    def text(self, name: str, step: int, text: str) -> None:
        from html import escape

        # the only rich text that it shows is HTML
        self._run.log({"round/step": step, name: self._wandb.Html(f"<pre>{escape(text)}</pre>", inject=False)})

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """One MLflow run in an experiment named after the project, found again by its tag."""

    def __init__(self, target: Target) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(target.project)
        experiment = found.experiment_id if found else self._client.create_experiment(target.project)
        known = self._client.search_runs([experiment], f"tags.selfplay_run = '{target.run_id}'", max_results=1)
        if known:
            self._run = known[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            tags = {"selfplay_run": target.run_id}
            self._run = self._client.create_run(experiment, tags=tags, run_name=target.name).info.run_id

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run, [Metric(f"{kind}/{name}", value, now, step) for name, value in values.items()]
        )

    def text(self, name: str, step: int, text: str) -> None:
        self._client.log_text(self._run, text, f"{name}/round_{step:03d}.txt")

    def close(self) -> None:
        self._client.set_terminated(self._run)


class Trackio:
    """One Trackio run."""

    def __init__(self, target: Target) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(project=target.project, name=f"{target.name}-{target.run_id[:8]}", resume="allow", embed=False)

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log({f"{kind}/step": step, **{f"{kind}/{name}": value for name, value in values.items()}})

    def text(self, name: str, step: int, text: str) -> None:
        self._trackio.log({"round/step": step, name: self._trackio.Markdown(_fenced(text))})

    def close(self) -> None:
        self._trackio.finish()


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


TRACKERS: dict[str, Callable[[Target], Tracker]] = {
    "tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio,
}  # fmt: skip


def check_installed(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not there: before anything runs."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tracking.to names {name}, which is not installed",
                f"`pip install {name}`, or leave it out of tracking.to.",
            )
