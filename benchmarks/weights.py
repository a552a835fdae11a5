"""Benchmark `weights`: from the end of a training to the first new response, over what cannot be avoided: writing the weights to
the disk once, and loading them into the engine.

The real trainer, store and engine, one after the other in one process, as in a round: the time begins with the last optimizer
step. It contains the checks of the trained policy, the canaries on both sides and the commit.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import Given, Measured, alternate, median_of, ratios
from benchmarks.forward_work import make_model
from benchmarks.training import make_job

# about 40 million parameters
SIZES = {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 8, "num_attention_heads": 10}


def measure(given: Given) -> Measured:
    """Ratios of wall time."""
    from selfplay.backends.vllm.engine_args import prepare_environment

    prepare_environment()
    import torch
    from safetensors.torch import load_file, save_file

    from selfplay.backends.trl.trainer import TrlTrainer
    from selfplay.backends.vllm.sampler import VllmSampler
    from selfplay.core.outcomes import Training, TrainOutcome
    from selfplay.core.protocols import SampleRequest, SamplingSettings
    from selfplay.store.layout import Layout
    from selfplay.store.manifest import FileEntry, policy_digest
    from selfplay.store.writer import StageInputs, StageWriter

    with given.scratch() as root:
        policy = make_model(root / "policy", SIZES, is_reward=False)
        job = dataclasses.replace(make_job(policy, root, 8), batch_size=8, max_steps=1, warmup_ratio=0.0)
        sampler = VllmSampler({}, dtype="float32", max_model_len=256)
        sampler.load_policy(str(policy), "start", [])
        trainer, layout, rounds = TrlTrainer(threads=1), Layout(root / "run"), iter(range(1, 1000))
        first = [SampleRequest("prompt", [5, 6, 7], 0)]
        parts: list[dict[str, float]] = []

        def ours() -> float:
            number, step = next(rounds), [0.0]
            shutil.rmtree(job.output_dir, ignore_errors=True)

            def stepped(event: Any) -> None:
                step[0] = time.perf_counter()

            result = trainer.train(job, stepped)
            trained = time.perf_counter()
            writer = StageWriter(layout, number, "train", StageInputs("benchmark", {}))
            files = [FileEntry(file.path, file.num_bytes, file.sha256) for file in result.files]
            digest = policy_digest(writer.adopt_folder(Path(job.output_dir, "policy"), "policy", files))
            outcome = TrainOutcome(
                skipped=False, policy_round=number, policy_digest=digest, optimizer_steps=1,
                training=Training.of(result, len(job.pairs), 0),
            )  # fmt: skip
            writer.commit(1, "now", 0.0, outcome)
            committed = time.perf_counter()
            sampler.load_policy(str(layout.stage(number, "train") / "policy"), f"{number}", result.canaries)
            served = time.perf_counter()
            sampler.sample(first, SamplingSettings(1, 1.0, 1))
            sampled = time.perf_counter()
            parts.append(
                {"checking_and_writing": trained - step[0], "commit": committed - trained,
                 "engine": served - committed, "response": sampled - served}
            )  # fmt: skip
            return sampled - step[0]

        tensors = load_file(policy / "model.safetensors")

        def unavoidable() -> float:
            path = root / "once.safetensors"
            started = time.perf_counter()
            save_file(tensors, path)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            assert sampler._llm is not None
            sampler._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(policy)})
            return time.perf_counter() - started

        ours()  # the first change builds a second engine
        runs: dict[str, Callable[[], float]] = {"ours": ours, "unavoidable": unavoidable}
        found = alternate(runs, given.num_runs)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    torch.set_num_threads(1)
    return Measured(
        [
            median_of(
                "weights_to_first_response_over_write_and_load",
                ratios(found["ours"], found["unavoidable"]),
                "x",
                f"{num_bytes >> 20} MB of float32 weights",
                bar=1.3,
            )
        ],
        {"seconds": found, "parts": parts[1:]},
    )
