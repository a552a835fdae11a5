"""Queries over the tables of a run."""
