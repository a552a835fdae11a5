"""Reads a preference dataset into pairs or responses, on top of `inputs.rows`. May import inputs, selection and core."""
