"""Which responses become pairs and which pairs are kept: pure functions on arrays (no Ray,
torch, files, config). May import core.

Reading order: reasons -> responses -> pair_rules -> pairing -> margins -> metrics -> keep -> select.
Axes are the last letters of a name: `_R` responses, `_P` pairs, `_G` prompts (groups of responses).
"""
