"""Reads the rows of any source (prompts, evaluation, datasets to select from). May import core only; no torch."""
