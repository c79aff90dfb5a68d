"""Told beforehand: what will happen in a run, in which order, and at which steps."""
