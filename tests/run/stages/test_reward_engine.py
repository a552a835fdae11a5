"""The engine that computes rewards: compared once, recorded, kept through a resume. On fakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfplay.config.load import load_config
from selfplay.core.errors import BackendError, ConfigError
from selfplay.core.machine import DeviceFacts
from selfplay.core.outcomes import EvaluateOutcome, RewardEngine, ScoreOutcome
from selfplay.core.protocols import ScoreItem
from selfplay.core.stages import ENGINES
from selfplay.execution.progress import Reporter
from selfplay.execution.sharding import Shard, Shards
from selfplay.inspect.reading import open_store
from selfplay.inspect.verify.verify import verify_document
from selfplay.run import driver, library_checks
from selfplay.run.stages.reward_engine import first_by_index
from selfplay.store.run import Store
from tests.helpers.fakes import Fakes, FakeScorer

WriteConfig = Callable[..., Path]
EXACT = 1e-6
CPU, GPU = (DeviceFacts("fake", gpus, 64 << 30, 64 << 30, None, 2) for gpus in ((), (80 << 30,)))


@pytest.fixture(autouse=True)
def no_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_checks, "_pooling_problems", lambda models: [""] * len(models))


def fakes_of(scorer: FakeScorer, device: DeviceFacts = GPU, **options: Any) -> Fakes:
    fakes = Fakes(devices=[device], **options)
    fakes.scorer = scorer
    return fakes


def start(config: Path, run_dir: Path, fakes: Any, until: tuple[int, str] = (1, "score")) -> Store:
    prepared = driver.preflight(load_config(config, []), config.parent, run_dir)
    return driver.run(prepared, config.read_text(), [], Reporter(quiet=True), workers=fakes, until=until)


def engines_of(store: Store) -> list[RewardEngine]:
    """Those of round 0's evaluation and of round 1."""
    found = [store.outcome(0, EvaluateOutcome).reward_engines, store.outcome(1, ScoreOutcome).reward_engines]
    return [engines["reward"] for engines in found if engines is not None]


def test_on_a_gpu_vllm_is_compared_once_and_taken(write_config: WriteConfig, tmp_path: Path) -> None:
    scorer = FakeScorer(engine_error=EXACT)
    store = start(write_config(), tmp_path / "run", fakes_of(scorer))
    first, second = engines_of(store)
    assert first == second and first.engine == "vllm"
    assert first.check is not None and first.check.passed and first.check.num_responses == 8
    assert first.check.error_max == pytest.approx(EXACT, rel=1e-3) and first.check.compared == "mean"
    assert {*scorer.engines} == {"vllm"}
    # the first shard of the evaluation, and nothing of the round after it
    assert scorer.compared and all("-e000-" in name for name in scorer.compared)
    table = store.table(1, "score", ENGINES)
    assert table.num_rows == 8 and table.equals(store.table(0, "evaluate", ENGINES))
    assert verify_document(tmp_path / "run", deep=True)["problems"] == []


def test_on_a_cpu_transformers_is_taken_unasked(write_config: WriteConfig, tmp_path: Path) -> None:
    scorer = FakeScorer(engine_error=EXACT)
    store = start(write_config(), tmp_path / "run", fakes_of(scorer, CPU))
    for found in engines_of(store):
        assert found.engine == "transformers" and "runs on a CPU" in found.reason and found.check is None
    assert {*scorer.engines} == {"transformers"} and not scorer.compared


@pytest.mark.parametrize(
    ("scorer", "reason"),
    [
        (FakeScorer(engine_error=0.5), r"differ by 0\.\d+ \(mean; 0\.02 is allowed\)"),
        (FakeScorer(problem="T5 is not supported"), "vLLM cannot compute these rewards: T5 is not supported"),
    ],
)
def test_what_differs_or_cannot_be_computed(
    write_config: WriteConfig, tmp_path: Path, scorer: FakeScorer, reason: str
) -> None:
    store = start(write_config(), tmp_path / "auto", fakes_of(scorer))
    assert {found.engine for found in engines_of(store)} == {"transformers"} == {*scorer.engines}
    said = (tmp_path / "auto/attempts/0001/log.txt").read_text()
    assert said.count("transformers computes the rewards: ") == 1
    config = write_config(reward={"engine": "vllm"})
    with pytest.raises(BackendError, match=rf"reward\.engine is vllm, but .*{reason}"):
        start(config, tmp_path / "vllm", fakes_of(scorer))


def test_a_float32_model_is_held_by_its_largest_error(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(reward={"engine": "vllm", "dtype": "float32"})
    with pytest.raises(BackendError, match=r"\(float32\) differ by .* \(largest; 0\.0001 is allowed\)"):
        start(config, tmp_path / "run", fakes_of(FakeScorer(engine_error=0.01)))


def test_a_resume_keeps_the_engine_of_its_stage(write_config: WriteConfig, tmp_path: Path) -> None:
    class Stops(FakeScorer):
        """Fails in the second call of round 1."""

        def score(self, items: Any, engine: str = "transformers") -> Any:
            if "-r001-" in items[0].response_id and any("-r001-" in name for name in self.scored):
                raise BackendError("stopped here", "")
            return super().score(items, engine)

    config = write_config()
    with pytest.raises(BackendError, match="stopped here"):
        start(config, tmp_path / "run", fakes_of(Stops(engine_error=EXACT)))
    # another comparison would fall back: half of the stage would be transformers', the other half vLLM's
    scorer = FakeScorer(engine_error=0.5)
    store = open_store(tmp_path / "run")
    prepared = driver.preflight(load_config(config, []), config.parent, tmp_path / "run", store)
    driver.resume(
        store, prepared, prepared.config, prepared.inputs.pins, Reporter(quiet=True), workers=fakes_of(scorer),
        until=(1, "score"),
    )  # fmt: skip
    assert engines_of(store)[1].engine == "vllm"
    assert {*scorer.engines} == {"vllm"} and not scorer.compared


def test_each_part_has_its_engine(write_config: WriteConfig, tiny_world: Path, tmp_path: Path) -> None:
    function = tmp_path / "rewards.py"
    function.write_text("def short(prompt, response):\n    return -float(len(response))\n")
    config = write_config(
        reward={
            "model": None,
            "parts": {"model": {"model": str(tiny_world / "reward_model")}, "short": {"function": f"{function}:short"}},
        },
        evaluation=None,
    )
    fakes = fakes_of(FakeScorer())
    fakes.parts = {"model": FakeScorer(engine_error=EXACT), "short": FakeScorer()}
    store = start(config, tmp_path / "run", fakes)
    found = store.outcome(1, ScoreOutcome).reward_engines
    assert found is not None and [*found] == ["reward.parts.model"] and found["reward.parts.model"].engine == "vllm"
    assert {*fakes.parts["short"].engines} == {"transformers"} and not fakes.parts["short"].compared
    assert store.table(1, "score", f"{ENGINES}/model").num_rows == 8


def test_a_response_that_kills_its_worker_is_not_compared(write_config: WriteConfig, tmp_path: Path) -> None:
    class First(list[str]):
        """The first response that is asked about."""

        def __contains__(self, name: object) -> bool:
            if not self and "-r001-" in str(name):
                self.append(str(name))
            return super().__contains__(name)

    fakes = fakes_of(FakeScorer(engine_error=EXACT), poison=First())
    store = start(write_config(evaluation=None), tmp_path / "run", fakes)
    outcome = store.outcome(1, ScoreOutcome)
    assert outcome.reward_engines is not None and outcome.reward_engines["reward"].engine == "vllm"
    assert outcome.num_scored == outcome.num_responses - 1


def test_an_architecture_without_support_is_refused_before_anything_starts(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_checks, "_pooling_problems", lambda models: ["no such thing"] * len(models))
    with pytest.raises(ConfigError, match=r"reward\.engine is vllm, but vLLM cannot compute .* no such thing"):
        start(write_config(reward={"engine": "vllm"}), tmp_path / "run", fakes_of(FakeScorer()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arrive", "given"), [([0, 1, 2], [0]), ([2, None, 1, None, 0], [None, None, 0]), ([2, 0, 1], [0]), ([0], [])]
)
def test_what_is_compared_does_not_depend_on_which_shard_is_there_first(
    arrive: list[int | None], given: list[int | None]
) -> None:
    items = [ScoreItem(str(number), [{"role": "user", "content": "a"}], "b") for number in range(3)]
    shards = Shards(lambda: arrive, lambda index: Shard(index, items[index : index + 1] if index else []), 2)
    first = first_by_index(shards)
    assert list(first.indices()) == given
    if given:
        assert first.shard(0) == Shard(0, items[1:2])
