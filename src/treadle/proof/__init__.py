"""Proof: a user's own program, run twice, killed and compared; and why, where it differs."""
