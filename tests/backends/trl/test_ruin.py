"""Policies of finite numbers that a training ruined: found at its end, with and without adapters, and nothing of them is kept."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from selfplay.backends.trl.ruin import Condition, check_policy, uncertainty
from selfplay.core.errors import RuinedPolicyError
from selfplay.core.protocols import Canary, CanaryPosition, TrainLimits
from tests.helpers.tiny import make_tiny_llama
from tests.helpers.training import make_job, make_pairs, train

HEALTHY = Condition(logp_before=-0.6, logp_after=-1.5, update_ratio=0.05, uncertainty=0.5)
LORA = {"r": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"logp_after": -4.0}, r"fell from -0.6 to -4 \(at most by 2.77\)"),
        ({"logp_after": math.nan}, "fell from -0.6 to nan"),
        ({"logp_after": -math.inf}, "fell from -0.6 to -inf"),
        ({"uncertainty": 0.0}, "gives every token a probability of almost 1"),
        ({"update_ratio": 1.5}, r"1.5 times the norm of the starting policy; the limit gates.max_update is 1"),
        ({"update_ratio": math.inf}, "inf times the norm"),
    ],
)
def test_each_bound(tmp_path: Path, changes: dict[str, float], said: str) -> None:
    job = make_job(tmp_path, tmp_path, [], limits=TrainLimits(max_update=1.0))
    check_policy(HEALTHY, job, vocab_size=256)
    found = Condition(**{**{name: getattr(HEALTHY, name) for name in HEALTHY.__slots__}, **changes})
    with pytest.raises(RuinedPolicyError, match=f"ruined the policy: .*{said}.*learning rate 0.001.*is kept") as caught:
        check_policy(found, job, vocab_size=256)
    assert "Lower training.learning_rate" in caught.value.hint
    assert ("gates.max_update" in caught.value.hint) == ("update_ratio" in changes)


def test_what_cannot_be_told_is_no_ruin(tmp_path: Path) -> None:
    # a policy that guesses from the start cannot fall; without canaries nothing is known of its certainty; no limit is set
    job = make_job(tmp_path, tmp_path, [])
    check_policy(Condition(-math.log(256), -math.log(256) - 1, 7.0, None), job, vocab_size=256)
    assert uncertainty([]) is None
    canaries = [Canary([1], [CanaryPosition([5, 6], [-0.5, -1.0]), CanaryPosition([5, 6], [-0.1, -3.0])])]
    assert uncertainty(canaries) == pytest.approx(0.3)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_rate_that_ruins_leaves_nothing(tmp_path: Path, lora: dict[str, object] | None) -> None:
    policy = make_tiny_llama(tmp_path / "policy")
    pairs = make_pairs(policy, 8)
    limits = TrainLimits(max_update=1.0)
    job = make_job(tmp_path, policy, pairs, learning_rate=3.0, lora=lora, limits=limits, warmup_ratio=0.0, epochs=2)
    with pytest.raises(RuinedPolicyError, match=r"ruined the policy: .*gates.max_update is 1"):
        train(job)
    assert not (tmp_path / "output/policy").exists()
