"""From the scored responses of each prompt to candidate pairs, and one reason for every response that is in none (stage *pair*,
second half).

Reading order: prompt_groups -> builders -> filters (similarity) -> length_penalty -> building; `existing_pairs`
filters pairs that were built elsewhere.
"""

from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing.building import Pairing, build_pairs
from selfplay.selection.pairing.existing_pairs import pair_filters

__all__ = ["PairRules", "Pairing", "build_pairs", "pair_filters"]
