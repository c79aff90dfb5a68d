"""Faults of the machine, made to order."""

import resource
from contextlib import contextmanager


@contextmanager
def full_disk():
    """Gives a function that sets how large a file may grow: a write beyond that ends in the middle and raises, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda room=soft: resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
