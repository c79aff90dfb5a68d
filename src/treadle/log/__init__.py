"""6. Where numbers go: the journal is the truth, every writer is a view of it."""
