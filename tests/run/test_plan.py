"""The plan of a run: its counts, what it warns about, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from selfplay.config.load import load_config
from selfplay.core.errors import ConfigError, ResourceError
from selfplay.core.format import human_bytes
from selfplay.core.machine import DeviceFacts
from selfplay.inputs.resolve import Inputs, resolve
from selfplay.run import plan
from selfplay.run.memory_estimate import EngineMemory

WriteConfig = Callable[..., Path]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def cpu(memory: int, total: int = 1 << 40) -> DeviceFacts:
    return DeviceFacts("here", (), total, memory, None, 2)


CPU = cpu(64 << 30)
GPU = DeviceFacts("here", (80 << 30,), 1 << 40, 1 << 40, None, 2)


def make(
    path: Path, *overrides: str, run_dir: Path | None = None, device: DeviceFacts = CPU, force: bool = False
) -> plan.Plan:
    config = load_config(path, overrides)
    inputs = inputs_of(path, *overrides)
    return plan.make_plan(config, inputs, run_dir or path.parent / "run", force=force, device=device)


def inputs_of(path: Path, *overrides: str) -> Inputs:
    return resolve(load_config(path, overrides), path.parent)


def test_counts(write_config: WriteConfig) -> None:
    found = make(write_config())
    assert (found.rounds, found.prompts_per_round, found.prompts_available) == (2, 20, 60)
    assert (found.responses_per_round, found.pairs_per_round, found.kept_per_round) == (80, 20, 10)
    assert found.optimizer_steps_per_round == 5
    assert (found.evaluation_prompts, found.evaluation_responses) == (10, 30)
    assert found.training_bytes == 16 * found.policy_parameters > 0
    assert 0 < found.disk_bytes < found.free_disk_bytes
    assert found.document()["kept_per_round"] == 10
    text = "\n".join(found.lines())
    assert "2 rounds: 20 prompts, 80 responses, 20 pairs, 10 kept, 5 optimizer steps a round" in text
    assert "warning: only 5 optimizer steps a round" in text
    assert "order: stages take turns: the workers of sampler, scorer and logprobs have no devices of their own" in text


def test_the_order_of_stages_is_known_with_the_devices(write_config: WriteConfig) -> None:
    devices = DeviceFacts("node", (80 << 30,) * 4, 64 << 30, 64 << 30, None, 32)
    assert make(write_config(), device=devices).overlap == "sample, score, pair and logprobs work side by side"
    joined = make(write_config(), "cluster.address=ray://node:10001", device=devices)
    assert joined.overlap.endswith("which is known once the cluster is joined")


@pytest.mark.parametrize(
    ("overrides", "kept", "steps"),
    [
        (["selection.keep=1.0"], 20, 10),
        (["selection.keep=7"], 7, 4),
        (["selection.keep=500"], 20, 10),
        (["training.epochs=3"], 10, 15),
        (["training.data=accumulated", "training.reference=initial"], 10, 10),
        (["training.batch_size=3"], 10, 4),
        (["pairs.build=all"], 60, 30),
        (["pairs.build=all", "pairs.max_per_prompt=2"], 20, 10),
    ],
)
def test_kept_pairs_and_steps(write_config: WriteConfig, overrides: list[str], kept: int, steps: int) -> None:
    found = make(write_config(), *overrides)
    assert (found.kept_per_round, found.optimizer_steps_per_round) == (kept, steps)
    assert bool(found.warnings) is (steps < 10)


def test_no_evaluation_no_evaluation_responses(write_config: WriteConfig) -> None:
    found = make(write_config(evaluation=None))
    assert (found.evaluation_prompts, found.evaluation_responses) == (0, 0)
    assert make(write_config(), "evaluation.greedy=false").evaluation_responses == 20


def test_bad_rows_are_told(write_config: WriteConfig, tiny_world: Path, tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text((tiny_world / "prompts.jsonl").read_text() + '{"prompt": ""}\n')
    found = make(write_config(prompts={"source": str(source)}))
    assert found.bad_rows == 1
    text = "\n".join(found.lines())
    assert "60 usable, 1 bad rows" in text
    assert "bad row: prompts.jsonl row 61: column 'prompt' is empty" in text
    source.write_text(source.read_text() + '{"prompt": ""}\n' * 4)
    held_out = tmp_path / "held.jsonl"
    held_out.write_text((tiny_world / "eval_prompts.jsonl").read_text() + "[]\n")
    found = make(write_config(prompts={"source": str(source)}, evaluation={"source": str(held_out)}))
    assert (found.bad_rows, found.evaluation_bad_rows) == (5, 1)
    assert [row.split(": ")[0] for row in found.bad_rows_shown] == [
        "prompts.jsonl row 61",
        "prompts.jsonl row 62",
        "prompts.jsonl row 63",
        "... and 2 more (the first of each reason are in the metrics of round 1's prompts)",
        "held.jsonl row 13",
    ]


def test_too_few_prompts(write_config: WriteConfig) -> None:
    path = write_config()
    with pytest.raises(ConfigError, match=r"4 rounds of 20 prompts need 80 prompts; .* has 60") as fresh:
        make(path, "rounds=4")
    assert "enough for 3 rounds" in fresh.value.message
    for way in ("rounds=3 or less", "prompts.per_round=15 or less", "prompts.order=same"):
        assert way in fresh.value.hint
        make(path, "rounds=4", way.partition(" ")[0])  # each of them is one
    with pytest.raises(ConfigError, match="enough for 0 rounds") as none:
        make(path, "prompts.per_round=61", "rounds=1")
    assert none.value.hint == "Set prompts.per_round=60 or less."
    assert make(path, "rounds=4", "prompts.order=same").rounds == 4
    with pytest.raises(ConfigError, match=r"prompts\.per_round is 61; .* has 60 usable prompts") as same:
        make(path, "prompts.per_round=61", "prompts.order=same")
    assert "per_round to 60 or less" in same.value.hint


def test_a_run_that_has_begun_is_told_only_what_it_can_change(write_config: WriteConfig) -> None:
    path = write_config()
    config, inputs = load_config(path, ["rounds=4"]), inputs_of(path)
    with pytest.raises(ConfigError, match="enough for 3 rounds") as error:
        plan.make_plan(config, inputs, path.parent / "run", rounds_done=2, begun=True, device=CPU)
    assert error.value.hint == "A run that has begun keeps its prompts: set rounds=3 or less (2 are done)."


def test_too_few_prompts_to_evaluate_on(write_config: WriteConfig) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.num_prompts is 13; .* has 12 usable ones") as error:
        make(write_config(), "evaluation.num_prompts=13")
    assert "12 or less" in error.value.hint
    assert make(write_config(), "evaluation.num_prompts=null").evaluation_prompts == 12


def test_training_that_may_not_fit_is_warned_about_with_the_sum(write_config: WriteConfig) -> None:
    path = write_config()
    needed = make(path).training_bytes
    (warning,) = [line for line in make(path, device=cpu(needed - 1)).warnings if "bytes a parameter" in line]
    assert "16 bytes a parameter" in warning and "training.lora" in warning and "this machine has" in warning
    (warning,) = [
        line for line in make(path, "training.lora.r=4", device=cpu(needed // 4)).warnings if "a parameter" in line
    ]
    assert "4.32 bytes a parameter" in warning and "training.lora" not in warning
    # adapters take 4 bytes a parameter and a little more
    assert needed / 4 < make(path, "training.lora.r=4").training_bytes < needed / 3
    assert not [line for line in make(path, device=cpu(1 << 40)).warnings if "available" in line]
    # the workers of a joined cluster run on other machines
    assert not [line for line in make(path, "cluster.address=h:1", device=cpu(1)).warnings if "available" in line]


def test_only_weights_that_no_device_can_hold_are_refused(write_config: WriteConfig) -> None:
    path = write_config()
    weights = make(path).policy_parameters * 4
    small = cpu(weights // 2, total=weights - 1)
    with pytest.raises(ResourceError, match=r"weights of .* alone take .* the largest device of this machine") as error:
        make(path, device=small)
    assert "--force" in error.value.hint
    assert make(path, device=small, force=True).available_bytes == weights // 2
    assert make(path, device=cpu(weights // 2, total=weights)).available_bytes == weights // 2
    assert make(path, "cluster.address=h:1", device=small).available_bytes == weights // 2
    # complete rounds need no memory
    prepared = inputs_of(path)
    done = plan.make_plan(load_config(path), prepared, Path("run"), rounds_done=2, device=small)
    assert done.rounds_done == 2


def test_a_disk_that_is_too_small_is_refused(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(Path(path))
        return Usage(1000, 0, 1000)

    monkeypatch.setattr(plan.shutil, "disk_usage", usage)
    with pytest.raises(ResourceError, match=r"the run will write about 1\.\d MB; 1 KB are free at") as error:
        make(write_config(), run_dir=tmp_path / "not/there/yet")
    assert "--run-dir" in error.value.hint
    # asked of the folder that will hold the run, whose parents may be missing
    assert asked == [tmp_path]
    assert make(write_config(), "storage.check_free_space=false").disk_bytes > 1000


def test_disk_counts_what_is_still_to_be_written(write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config()
    config, prepared = load_config(path), inputs_of(path)

    def needed(done: int) -> int:
        return plan.make_plan(config, prepared, path.parent / "run", rounds_done=done).disk_bytes

    whole, half = needed(0), needed(1)
    # round 0 has an evaluation of its own
    assert half == (whole - 30 * (6 * 8 + 500)) // 2
    assert (needed(2), needed(3)) == (0, 0)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: Usage(half, 0, half))
    with pytest.raises(ResourceError, match="are free at"):
        needed(0)
    assert needed(1) == half
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    assert needed(2) == 0


def test_disk_at_the_peak_and_in_the_end(write_config: WriteConfig) -> None:
    path = write_config(prompts={"per_round": 5})
    policy = 4 * make(path).policy_parameters
    rows = make(path, "rounds=6").disk_bytes

    def disk(*overrides: str) -> tuple[float, float]:
        """Peak and end of 6 rounds in policies, tables apart."""
        found = make(path, "rounds=6", *overrides)
        tables = rows - 4 * policy
        return (found.disk_bytes - tables) / policy, (found.final_disk_bytes - tables) / policy

    # two, the best, and the one that was just trained
    assert disk() == (4, 3)
    assert disk("storage.keep_policies=3") == (5, 4)
    assert disk("storage.keep_policies=all") == (6, 6)
    # a checkpoint is weights and both of Adam's moments; one more while it is written
    assert disk("training.checkpoint_every=1") == (4 + 2 * 3, 3)
    assert disk("training.checkpoint_every=1", "storage.keep_trainer_checkpoints=2") == (4 + 3 * 3, 3)


def test_disk_has_the_engines_copy_where_its_dtype_is_another(write_config: WriteConfig) -> None:
    path = write_config()
    plain, copied = make(path), make(path, "policy.dtype=bfloat16")
    assert copied.disk_bytes - plain.disk_bytes == 2 * 2 * plain.policy_parameters
    assert make(path, device=GPU).disk_bytes == copied.disk_bytes
    assert make(path, "policy.dtype=float32", device=GPU).disk_bytes == plain.disk_bytes


def test_the_engine_is_counted_on_a_cpu(write_config: WriteConfig) -> None:
    path = write_config()
    found = make(path)
    assert found.engine_bytes == 4 * found.policy_parameters + (64 << 20)
    assert "the engine 6" in "\n".join(found.lines())
    given = make(path, "sampling.engine.kv_cache_memory_bytes=33554432")
    assert found.engine_bytes - given.engine_bytes == 32 << 20
    (warning,) = [line for line in make(path, device=cpu(found.engine_bytes)).warnings if "stays beside it" in line]
    assert "max_model_len" in warning
    assert make(path, device=GPU).engine_bytes == 0


def test_every_reward_model_is_counted(write_config: WriteConfig, tiny_world: Path, tmp_path: Path) -> None:
    path = write_config()
    one = make(path)
    size = inputs_of(path).reward_infos["reward"].num_params
    assert one.reward_bytes == 4 * size > 0
    assert f"reward models {human_bytes(4 * size)} (weights)" in "\n".join(one.lines())
    (tmp_path / "rewards.py").write_text("def short(prompt, response):\n    return -len(response)\n")
    model = {"model": str(tiny_world / "reward_model")}
    sections = {"a": model, "b": {**model, "dtype": "bfloat16"}, "short": {"function": "rewards.py:short"}}
    several = write_config(reward={"model": None, "parts": sections})
    assert make(several).reward_bytes == (4 + 2) * size
    assert make(several, "cluster.scorer.replicas=2").reward_bytes == 2 * (4 + 2) * size
    together = cpu(one.engine_bytes + one.training_bytes)
    (warning,) = [line for line in make(path, device=together).warnings if "stays beside it" in line]
    assert "reward models of" in warning
    function = write_config(reward={"model": None, "function": "rewards.py:short"})
    assert make(function).reward_bytes == 0
    assert "reward models" not in "\n".join(make(function).lines())


def test_a_context_of_which_not_one_sequence_fits_is_warned_about(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = EngineMemory(weights=1000, cache=10**13, least_cache=10**13)
    monkeypatch.setattr(plan, "cpu_engine_memory", lambda config, inputs: huge)
    (warning,) = [line for line in make(write_config()).warnings if "whole context" in line]
    assert "10.0 TB for the keys and values of one sequence of 512 tokens" in warning
    assert "sampling.engine.max_model_len" in warning


def test_prompts_that_are_held_out_and_trained_on(write_config: WriteConfig, tiny_world: Path, tmp_path: Path) -> None:
    source = tmp_path / "held.jsonl"
    trained = (tiny_world / "prompts.jsonl").read_text().splitlines(keepends=True)[:3]
    source.write_text("".join(trained) + (tiny_world / "eval_prompts.jsonl").read_text())
    (warning,) = [
        line for line in make(write_config(evaluation={"source": str(source)})).warnings if "held out" in line
    ]
    assert warning.startswith("3 of the 15 prompts of evaluation.source are in prompts.source too")
    assert not [line for line in make(write_config()).warnings if "held out" in line]


def test_a_judge_that_cannot_judge_training_responses_is_said(write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "gold.py").write_text("def gold(prompt, response, answer):\n    return 1.0\n")
    source = tmp_path / "held.jsonl"
    source.write_text('{"prompt": "2 + 2?", "answer": "4"}\n' * 10)
    path = write_config(evaluation={"source": str(source), "gold": "gold.py:gold"})
    (warning,) = [line for line in make(path).warnings if "gold" in line]
    assert "the judge needs answer" in warning
