"""Reads the rows of a preference dataset into candidate pairs."""
