"""The workers of a child that is to be killed: the fakes of the suite, every call noted outside the run before it is answered.

The pool works ahead as Ray's does (two calls in flight), and the trainer goes step by step with real sealed checkpoints, so that
what a kill makes to be done again can be counted as it is with the real workers.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.fake_backends import fake_result
from selfplay.backends.trl import checkpoints
from selfplay.config.schema import Config
from selfplay.core.errors import Interrupted
from selfplay.core.machine import DeviceFacts, this_device
from selfplay.core.pool import Call, Workers
from selfplay.core.protocols import StepMetrics, TrainJob, TrainResult
from selfplay.inputs.resolve import Inputs
from tests.behaviour.chaos.failpoints import Failpoints
from tests.helpers.fakes import FakeLogprobs, FakeSampler, FakeScorer

# as in selfplay/execution/ray/ray_pool.py: one call running, one waiting
IN_FLIGHT = 2


class AheadPool:
    """One worker that is asked for the next shard before the driver has kept the last one."""

    def __init__(self, role: str, backend: Any, points: Failpoints) -> None:
        self._role, self._backend, self._points = role, backend, points
        self._digest = ""

    def start(self) -> None:
        """Nothing to start."""

    def devices(self) -> list[DeviceFacts]:
        """Those of this process."""
        return [this_device()]

    def _ask(self, method: str, args: tuple[Any, ...]) -> Any:
        key = hashlib.sha256("\n".join([self._digest, *_names(args)]).encode()).hexdigest()[:12]
        self._points.note("call", f"{self._role}.{method}", key)
        self._points.reached(f"{self._role} is asked to {method}")
        return getattr(self._backend, method)(*args)

    def map(self, method: str, calls: Iterable[Call | None], window: int = 2) -> Iterator[tuple[int, Any]]:
        """In order, `IN_FLIGHT` ahead."""
        waiting: deque[tuple[int, Any]] = deque()
        for call in calls:
            if call is None:
                time.sleep(0.001)
                if waiting:
                    yield waiting.popleft()
                continue
            waiting.append((call.key, self._ask(method, call.args)))
            if len(waiting) == IN_FLIGHT:
                yield waiting.popleft()
        yield from waiting

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """The one answer."""
        if method == "load_policy":
            self._digest = args[1]
        self._points.reached(f"{self._role} is told to {method}")
        return [getattr(self._backend, method)(*args)]

    def drain_events(self) -> list[str]:
        """Nothing dies alone here."""
        return []

    def run_streaming(self, method: str, *args: Any, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Any]:
        """What the backend yields, as it does."""
        yield from getattr(self._backend, method)(*args)


def _names(args: tuple[Any, ...]) -> Iterator[str]:
    """What makes one call different from another: ids and seeds of its items, digests and settings beside them."""
    for value in args:
        if isinstance(value, list | tuple):
            for item in value:
                name = getattr(item, "response_id", None) or f"{item.prompt_id} {item.seed}"
                yield str(name)
        else:
            yield repr(value)


class SteppingTrainer:
    """A trainer on numpy: a step's update follows from its pairs; checkpoints are sealed as the real trainer's are."""

    def __init__(self, points: Failpoints) -> None:
        self._points = points

    def train(self, job: TrainJob) -> Iterator[StepMetrics | TrainResult]:
        """Steps, then the result; a stop that is asked for seals a checkpoint first."""
        mark, folder = checkpoints.fingerprint(job), Path(job.checkpoint_dir)
        found = checkpoints.find(folder, mark)
        for path, _ in found.rejected:
            shutil.rmtree(path)
        source = Path(job.policy_dir)
        weights = load_file((found.folder or source) / "model.safetensors")
        total = -(-len(job.pairs) // job.batch_size) * job.epochs
        log: list[StepMetrics] = []
        for step in range(found.step + 1, total + 1):
            self._points.note("step", step)
            self._points.reached("a training step")
            first = (step - 1) * job.batch_size % len(job.pairs)
            names = "".join(pair.pair_id for pair in job.pairs[first : first + job.batch_size])
            shift = np.float32(1e-6 * step * sum(map(ord, names)))
            weights = {name: value + shift for name, value in weights.items()}
            log.append(StepMetrics(step, total, 0.69, job.learning_rate, 1.0, 0.5, 0.0))
            yield log[-1]
            stopped = Path(job.stop_file).exists() if job.stop_file else False
            if stopped or (job.checkpoint_every and step % job.checkpoint_every == 0):
                self._save(folder / f"checkpoint-{step}", weights, step, mark)
            if stopped:
                raise Interrupted(f"stopped as asked; step {step} of {total} is kept")
        output = Path(job.output_dir, "policy")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(source, output)
        save_file(weights, output / "model.safetensors", {"format": "pt"})
        yield fake_result(job, log, num_steps=total, resumed_from_step=found.step)

    def _save(self, folder: Path, weights: Mapping[str, Any], step: int, mark: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), folder / "model.safetensors", {"format": "pt"})
        for name in checkpoints.REQUIRED:
            (folder / name).write_bytes(b"state")
        checkpoints.seal(folder, step, mark)
        checkpoints.remove_all_but_newest(folder.parent, 2)


class ChaosWorkers:
    """In the place of the Ray workers of a run."""

    def __init__(self, points: Failpoints) -> None:
        self._points = points

    @contextlib.contextmanager
    def __call__(self, config: Config, inputs: Inputs, folder: Path) -> Iterator[Workers]:
        points = self._points
        points.reached("workers start")
        yield Workers(
            AheadPool("sampler", FakeSampler(), points),
            AheadPool("scorer", FakeScorer(), points),
            AheadPool("logprobs", FakeLogprobs(), points),
            AheadPool("trainer", SteppingTrainer(points), points),
            AheadPool("gold", FakeScorer(0.1), points),
            own_devices=frozenset(["sampler", "scorer", "logprobs"] if config.cluster.overlap is True else []),
        )
        points.reached("workers end")


class ChaosPools:
    """In the place of the Ray pools of `selfplay select`."""

    def __init__(self, points: Failpoints) -> None:
        self._points = points

    @contextlib.contextmanager
    def __call__(self, config: Any, inputs: Any, folder: Path) -> Iterator[Workers]:
        points = self._points
        points.reached("workers start")
        nobody = AheadPool("nobody", None, points)
        scorer, logprobs = AheadPool("scorer", FakeScorer(), points), AheadPool("logprobs", FakeLogprobs(), points)
        yield Workers(sampler=nobody, scorer=scorer, logprobs=logprobs, trainer=nobody)
        points.reached("workers end")
