"""The glossary of a report."""

from __future__ import annotations

TERMS: tuple[tuple[str, str], ...] = (
    ("round", "One pass of sample, score, pair, log-probs, select, train, evaluate with the current policy. Round 0 is the "
              "starting policy, which is only evaluated."),
    ("policy", "The model that is trained. Round r trains the policy of round r, which round r + 1 samples from."),
    ("reference", "The model that a DPO loss measures against: the policy that sampled the round, or that of round 0."),
    ("reward", "What ranks the responses: a reward model, a function, or several combined. The policy is trained on it."),
    ("gold reward", "A judge that is never trained on. It shows whether the policy improved or exploits errors of the reward."),
    ("pair", "Two responses to one prompt: chosen (higher reward) and rejected."),
    ("explicit margin", "Reward of the chosen response minus that of the rejected one."),
    ("implicit margin", "The same by the policy's own log-probs: how much it prefers the chosen response before training."),
    ("alignment potential", "Explicit margin minus the size of the implicit margin, both as z-scores by default: how much "
                            "is left to learn from a pair (Huang et al., ICML 2025)."),
    ("metric value, cut", "The number that ranked the pairs, and its lowest value among those that were kept."),
    ("kept, dropped", "Kept pairs are trained on. Dropped ones stay in the tables, each with its reason."),
    ("held-out", "Prompts that no round trains on; the same ones, with the same seeds, in every round."),
    ("sampled, greedy", "Responses drawn at the run's temperature, and the single most likely one."),
    ("win rate", "Share of held-out prompts on which the policy's responses are judged better; a tie counts half."),
    ("95 % interval", "Bootstrap over prompts: the range of the mean with other prompts of the same kind."),
    ("distinct-n", "Different runs of n tokens among all runs of n tokens of the held-out responses."),
    ("truncated", "Responses that were cut at the length limit. They are in no pair."),
    ("commit, digest", "Each stage is committed with the sha256 of all its files and of the commits it was made from."),
)  # fmt: skip
