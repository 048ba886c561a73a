"""Experiments: one script, one question. Run one with `python -m experiments.NAME`."""
