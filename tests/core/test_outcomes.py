"""What stages record: there and back through JSON, and nothing else than the record's keys."""

from __future__ import annotations

from typing import Any

import pytest

from selfplay.core.outcomes import SampleOutcome, SelectOutcome, TrainOutcome, from_json
from selfplay.core.stages import STAGE_NAMES, stage_named
from selfplay.store.run import Store
from tests.helpers.make_run import make_run
from tests.helpers.outcomes import DOCUMENTS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_run(tmp_path_factory.mktemp("outcomes") / "run")


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_there_and_back(store: Store, stage: str) -> None:
    kind = stage_named(stage).outcome
    outcome = store.outcome(2, kind)
    assert type(outcome) is kind
    assert from_json(kind, outcome.to_json()) == outcome


@pytest.mark.parametrize("stage", DOCUMENTS)
def test_a_field_without_a_value_has_no_key(stage: str) -> None:
    document = DOCUMENTS[stage]
    assert from_json(stage_named(stage).outcome, document).to_json() == {"adopted_shards": 0, **document}


@pytest.mark.parametrize(
    "change",
    [{"another": 1}, {"num_tokens": "3"}, {"num_tokens": None}, {"weight_changes": [{"how": "loaded"}]}],
)
def test_other_keys_and_types_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        from_json(SampleOutcome, DOCUMENTS["sample"] | change)


def test_a_missing_key_is_refused() -> None:
    with pytest.raises(ValueError, match="policy_round"):
        from_json(TrainOutcome, {"skipped": True, "policy_digest": "a", "optimizer_steps": 0})
    with pytest.raises(ValueError, match="summary"):
        from_json(SelectOutcome, {})


def test_part_of_a_training_is_refused() -> None:
    with pytest.raises(ValueError, match="first_loss"):
        from_json(TrainOutcome, DOCUMENTS["train"] | {"num_pairs": 3})
