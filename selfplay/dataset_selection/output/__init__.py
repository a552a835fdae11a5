"""Writes what `select` keeps: datasets, card, summary."""
