"""From the scored responses of each prompt to candidate pairs, and one reason for every response that is in none (stage *pair*,
second half).

Reading order: blocks -> builders -> filters (similarity) -> length_penalty -> building; `ready_made` filters pairs that
somebody else built.
"""

from selfplay.selection.pair_rules import PairRules
from selfplay.selection.pairing.building import Pairing, build_pairs
from selfplay.selection.pairing.existing_pairs import pair_filters

__all__ = ["PairRules", "Pairing", "build_pairs", "pair_filters"]
