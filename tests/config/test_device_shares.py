"""How GPUs are shared where the settings do not say: bookkeeping that must fill whole devices and never ask for more."""

from __future__ import annotations

import math

import pytest

from selfplay.config.device_shares import gpu_share


@pytest.mark.parametrize(
    ("devices", "engines", "engine_share", "other_share"),
    [
        (0, 1, 0.0, 0.0),
        (1, 1, 0.25, 0.25),
        (2, 1, 1.0, 0.3333),
        (3, 1, 1.0, 0.5),
        (4, 1, 1.0, 1.0),
        (8, 6, 1.0, 0.5),
        (2, 4, 0.25, 0.25),
    ],
)
def test_engines_have_their_own_devices_where_there_are_enough(
    devices: int, engines: int, engine_share: float, other_share: float
) -> None:
    engine = gpu_share(devices, engines, 3, is_engine=True)
    other = gpu_share(devices, engines, 3, is_engine=False)
    assert (engine, other) == (engine_share, other_share)
    assert engine * engines + other * 3 <= devices
    # so many fit on each device that all of them fit on all devices
    if devices and other < 1.0:
        left = devices - engines if engine == 1.0 else devices
        assert left * math.floor(1 / other + 1e-3) >= 3
