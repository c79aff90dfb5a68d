"""Failure: what comes of a step that does not go through: kept and left out, or begun again in smaller parts."""
