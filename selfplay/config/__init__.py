"""The YAML schema, loading, overrides and diffs. Imports nothing heavy; may import selection and core."""
