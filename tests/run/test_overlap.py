"""Which stages work side by side, and what is said about it."""

from __future__ import annotations

import pytest

from selfplay.config.device_shares import ROLES, own_devices
from selfplay.config.running import ClusterConfig
from selfplay.run.overlap import groups, overlap_of
from tests.helpers.stages import every_stage

OWN = ("sampler", "scorer", "logprobs")


def test_groups_follow_the_devices() -> None:
    assert groups(1, OWN)[:3] == [["prompts"], ["sample", "score", "pair", "logprobs"], ["select"]]
    assert groups(1, ("sampler", "scorer"))[1:3] == [["sample", "score", "pair"], ["logprobs"]]
    assert groups(1, ("sampler", "logprobs"))[1:4] == [["sample"], ["score"], ["pair", "logprobs"]]
    assert [name for group in groups(1, OWN) for name in group] == [name for number, name in every_stage(1) if number]
    assert groups(0, OWN) == [["prompts"], ["evaluate"]]


@pytest.mark.parametrize(
    ("cluster", "num_gpus", "text"),
    [
        ({}, 0, "stages take turns: the workers of sampler, scorer and logprobs have no devices of their own"),
        ({"overlap": True}, 0, "sample, score, pair and logprobs work side by side"),
        ({"overlap": False}, 8, "stages take turns: cluster.overlap is false"),
        ({}, 4, "sample, score, pair and logprobs work side by side"),
        # the engine has a device, and the others share one
        ({}, 2, "stages take turns: the workers of scorer and logprobs have no devices of their own"),
        (
            {"sampler": {"num_cpus": 2}, "scorer": {"num_cpus": 1}},
            0,
            "sample, score and pair work side by side; the workers of logprobs have no devices of their own",
        ),
    ],
)
def test_what_is_said_follows_the_devices(cluster: dict[str, object], num_gpus: int, text: str) -> None:
    config = ClusterConfig.model_validate(cluster)
    assert overlap_of(config, own_devices(config, num_gpus, scorers=1)).text == text


def test_every_part_of_a_reward_needs_a_device() -> None:
    assert own_devices(ClusterConfig(), 4, scorers=1) == {*ROLES}
    assert own_devices(ClusterConfig(), 4, scorers=2) == {"sampler"}
