"""Drift as a verb: check, remember, act."""
