"""9. What made it: the record of a run."""
