"""What is refused before it reaches an engine, and what is just allowed."""

import pytest

from selfplay.backends.vllm.request_checks import check_requests, check_settings
from selfplay.core.errors import ConfigError, DataError
from selfplay.core.protocols import SampleRequest, SamplingSettings


@pytest.mark.parametrize(("num_responses", "temperature"), [(1, 0), (5, 0.01), (5, 2.0)])
def test_settings_that_are_meant_pass(num_responses, temperature):
    check_settings(SamplingSettings(num_responses, temperature, 8))


@pytest.mark.parametrize(
    ("num_responses", "temperature", "message"),
    [(2, 0, "greedy sampling gives one response"), (1, 0.001, r"temperature 0.001 is below 0.01")],
)
def test_settings_that_cannot_be_meant_are_refused(num_responses, temperature, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(SamplingSettings(num_responses, temperature, 8))


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([], "prompt bad is empty"),
        ([1] * 9, "has 9 tokens; with max_tokens 8 it exceeds the engine's max_model_len of 16"),
        ([1, 50], "outside of the model's vocabulary of 50"),
        ([-1, 1], "outside of the model's vocabulary of 50"),
    ],
)
def test_a_bad_prompt_among_good_ones_is_named(token_ids, message):
    good = SampleRequest("good", [0, 49] * 4, 0)
    check_requests([good], 8, max_model_len=16, vocab_size=50)
    with pytest.raises(DataError, match=message):
        check_requests([good, SampleRequest("bad", token_ids, 0)], 8, max_model_len=16, vocab_size=50)
