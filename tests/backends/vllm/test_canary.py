"""The canary's comparison: what passes, what misses, on numbers made by hand."""

import math

import pytest

from selfplay.backends.vllm.canary import TOLERANCES, EngineToken, compare, differs, probes
from selfplay.core.protocols import Canary, CanaryPosition

EXACT = TOLERANCES["float32"]
ROUGH = TOLERANCES["bfloat16"]


def canary(*positions: dict[int, float]) -> Canary:
    return Canary([1, 2, 3], [CanaryPosition(list(p), list(p.values())) for p in positions])


def engine(*positions: dict[int, float]) -> list[EngineToken]:
    return [EngineToken(next(iter(p)), p) for p in positions]


def test_equal_passes_and_counts_positions():
    seen = [{5: -0.1, 6: -3.0}, {7: -0.5, 8: -1.5}]
    verdict = compare([canary(*seen)], [engine(*seen)], EXACT)
    assert verdict.miss == ""
    assert (verdict.max_error, verdict.mean_error, verdict.positions) == (0.0, 0.0, 2)


def test_float32_holds_every_shared_log_prob():
    verdict = compare([canary({5: -0.1, 6: -3.0})], [engine({5: -0.1, 6: -3.002})], EXACT)
    assert "differ by 0.002" in verdict.miss
    assert verdict.max_error == pytest.approx(0.002)
    assert compare([canary({5: -0.1, 6: -3.0})], [engine({5: -0.1, 6: -3.0009})], EXACT).miss == ""


def test_bfloat16_holds_only_the_mean_over_taken_tokens():
    trainer = [{5: -0.10, 6: -3.0}, {7: -0.50, 8: -1.5}]
    assert compare([canary(*trainer)], [engine({5: -0.18, 6: -3.3}, {7: -0.51, 8: -1.5})], ROUGH).miss == ""
    assert "0.055 in the mean" in compare([canary(*trainer)], [engine({5: -0.2, 6: -3.0}, {7: -0.51})], ROUGH).miss


def test_a_near_tie_is_forgiven_and_ends_the_prompt():
    trainer = [{5: -0.7000, 6: -0.7004}, {9: -0.1}]
    swapped = [{6: -0.7001, 5: -0.7003}, {4: -5.0}]
    verdict = compare([canary(*trainer)], [engine(*swapped)], EXACT)
    assert verdict.miss == ""
    assert verdict.positions == 1


def test_a_swap_of_distant_candidates_misses_on_either_side():
    tie, apart = {5: -0.700, 6: -0.7004}, {6: -0.6, 5: -0.8}
    assert "takes token 6, the trainer 5" in compare([canary(tie)], [engine(apart)], EXACT).miss
    assert "takes token 5, the trainer 6" in compare([canary(apart)], [engine(tie)], EXACT).miss


def test_a_token_the_other_side_does_not_list_misses():
    verdict = compare([canary({5: -0.1, 6: -3.0})], [engine({9: -0.1, 5: -3.0})], ROUGH)
    assert "not among its candidates" in verdict.miss


def test_nan_misses_and_says_so():
    verdict = compare([canary({5: -0.1})], [engine({5: math.nan})], ROUGH)
    assert "nan" in verdict.miss


def test_an_engine_cut_short_by_the_context_is_compared_as_far_as_it_went():
    verdict = compare([canary({5: -0.1}, {6: -0.2})], [engine({5: -0.1})], EXACT)
    assert (verdict.miss, verdict.positions) == ("", 1)


def test_one_bad_prompt_among_good_ones_misses_and_is_named():
    good = {5: -0.1, 6: -3.0}
    verdict = compare([canary(good), canary(good)], [engine(good), engine({6: -0.1, 5: -3.0})], EXACT)
    assert verdict.miss.startswith("canary 1, position 0")


@pytest.mark.parametrize(
    ("canaries", "continuations"),
    [([], []), ([canary({5: 0.0})], []), ([canary()], [[]]), ([canary({5: 0.0})], [[]])],
)
def test_nothing_to_compare_is_an_error_not_a_pass(canaries, continuations):
    with pytest.raises(ValueError):
        compare(canaries, continuations, EXACT)


def test_two_engines_on_the_same_weights_are_held_to_rounding():
    fresh = [engine({5: -0.1, 6: -3.0}, {7: -0.5, 8: -1.5})]
    assert differs(fresh, fresh, "float32") == ""
    assert differs([engine({5: -0.10002, 6: -3.0}, {7: -0.5, 8: -1.5})], fresh, "float32") == ""
    assert "differ by 0.0002" in differs([engine({5: -0.1002, 6: -3.0}, {7: -0.5, 8: -1.5})], fresh, "float32")
    assert "takes token 9" in differs([engine({9: -0.1, 5: -3.0})], fresh, "float32")
    assert differs([engine({5: -0.105, 6: -3.1}, {7: -0.5, 8: -1.5})], fresh, "bfloat16") == ""
    assert "in the mean" in differs([engine({5: -0.14, 6: -3.0}, {7: -0.5, 8: -1.5})], fresh, "bfloat16")


def test_probes_fit_the_vocabulary_and_the_context():
    for vocab_size, longest in ((320, 128), (7, 16), (150_000, 4)):
        for probe in probes(vocab_size, longest):
            assert 0 <= min(probe.prompt_token_ids) <= max(probe.prompt_token_ids) < vocab_size
            assert 0 < len(probe.prompt_token_ids) < longest
    assert len({tuple(probe.prompt_token_ids) for probe in probes(320, 128)}) == 4
