"""What a selection did to its pool, and what a user should look at first: pure functions on a PairPool and a Selection.

Reading order: distributions, agreement, groups, records (numbers), warnings (about them), diagnose (all of it).
"""
