"""What `auto` means on the devices that the workers report, and which models they cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from selfplay.config.load import load_config
from selfplay.config.schema import Config
from selfplay.core.errors import ResourceError
from selfplay.core.machine import DeviceFacts
from selfplay.inputs.resolve import Inputs, resolve
from selfplay.run.devices import RunDevices, check_memory, find_devices
from tests.helpers.fakes import DEVICE, Fakes
from tests.run.test_driver import log_of, start

WriteConfig = Callable[..., Path]
GPU = DeviceFacts("node-2", (80 << 30,), 256 << 30, 200 << 30, None, 32)


@pytest.fixture
def parts(write_config: WriteConfig) -> tuple[Config, Inputs]:
    path = write_config(rounds=1)
    config = load_config(path)
    return config, resolve(config, path.parent)


def find(config: Config, inputs: Inputs, fakes: Fakes) -> RunDevices:
    with fakes(config, inputs, Path()) as workers:
        return find_devices(config, workers)


def test_auto_follows_the_workers_and_not_the_driver(parts: tuple[Config, Inputs]) -> None:
    config, inputs = parts
    found = find(config, inputs, Fakes(devices=[GPU], trainer_device=GPU))
    assert (found.engine_dtype, found.precision) == ("bfloat16", "bf16")
    assert found.document()["trainer"][0]["node"] == "node-2"
    assert {"sampler", "scorer", "gold", "logprobs", "trainer"} == found.roles.keys()
    found = find(config, inputs, Fakes())
    assert (found.engine_dtype, found.precision) == ("float32", "float32")


@pytest.mark.parametrize(("pools", "trainer", "dtype"), [(GPU, DEVICE, "float32"), (DEVICE, GPU, "bfloat16")])
def test_log_probs_have_the_dtype_of_a_trainer_on_another_device(
    parts: tuple[Config, Inputs], pools: DeviceFacts, trainer: DeviceFacts, dtype: str
) -> None:
    fakes = Fakes(devices=[pools], trainer_device=trainer)
    find(*parts, fakes)
    assert fakes.logprobs.dtypes == [dtype]


def test_settings_go_before_what_the_devices_are(write_config: WriteConfig) -> None:
    path = write_config(rounds=1, policy={"dtype": "float32"}, training={"precision": "float32"})
    config = load_config(path)
    fakes = Fakes(num_workers=2, devices=[GPU, DEVICE], trainer_device=GPU)
    found = find(config, resolve(config, path.parent), fakes)
    assert (found.engine_dtype, found.precision, fakes.logprobs.dtypes) == ("float32", "float32", [])


def test_workers_of_one_role_on_different_devices_need_a_setting(parts: tuple[Config, Inputs]) -> None:
    with pytest.raises(ResourceError, match=r"`policy\.dtype: auto` would mix dtypes"):
        find(*parts, Fakes(num_workers=2, devices=[GPU, DEVICE]))


def test_weights_that_exceed_the_trainers_device_are_refused_unless_forced(parts: tuple[Config, Inputs]) -> None:
    config, inputs = parts
    weights = 4 * inputs.policy_info.num_params
    small = replace(DEVICE, node="small", cpu_total=weights - 1, cpu_available=weights - 1)
    found = find(config, inputs, Fakes(trainer_device=small))
    with pytest.raises(ResourceError, match="the trainer's device on small has"):
        check_memory(config, inputs, found, force=False)
    warnings = check_memory(config, inputs, found, force=True)
    assert "the trainer's device on small" in warnings[0]
    assert any("bytes a parameter" in warning for warning in warnings)
    enough = replace(small, cpu_total=weights)
    warnings = check_memory(config, inputs, find(config, inputs, Fakes(trainer_device=enough)), force=False)
    assert any("16 bytes a parameter" in warning for warning in warnings)
    assert check_memory(config, inputs, find(config, inputs, Fakes()), force=False) == []


def test_a_run_records_the_devices_of_its_attempt(write_config: WriteConfig, tmp_path: Path) -> None:
    fakes = Fakes(devices=[GPU], trainer_device=replace(DEVICE, cpu_available=1))
    start(write_config(rounds=1), tmp_path / "run", fakes)
    assert [job.engine_dtype for job in fakes.trainer.jobs] == ["bfloat16"]
    assert [job.precision for job in fakes.trainer.jobs] == ["float32"]
    events = (tmp_path / "run/attempts/0001/events.jsonl").read_text().splitlines()
    (devices,) = [event for event in map(json.loads, events) if event["event"] == "devices"]
    assert devices["sampler"] == [{
        "node": "node-2", "gpus": [80 << 30], "cpu_total": 256 << 30, "cpu_available": 200 << 30, "cgroup_limit": None,
        "num_cores": 32,
    }]  # fmt: skip
    assert "warning: training" in log_of(tmp_path / "run")
