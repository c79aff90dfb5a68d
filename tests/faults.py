"""Faults of the machine, made to order."""

import ctypes
import os
import resource
import sys
from contextlib import contextmanager

_CAPABILITIES = 1 << 1 | 1 << 2 | 1 << 3
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER: what lets root pass by permission bits."""


@contextmanager
def full_disk():
    """Gives a function that sets how large a file may grow: a write beyond that ends in the middle and raises, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda room=soft: resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def little_memory(room=1 << 30):
    """In here this process gets so many more bytes of memory, and then a MemoryError; so a read without an end has one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    try:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def obeying_permissions():
    """In here permission bits bind root too, in this thread and those that it starts; they bind any other user anyway."""
    if os.geteuid() != 0 or sys.platform != "linux":
        yield
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the version of the structure, and this thread
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and the same of the higher numbers
    _check(ctypes.CDLL(None, use_errno=True).capget(header, held))
    before = held[0]
    held[0] &= ~_CAPABILITIES
    _check(ctypes.CDLL(None, use_errno=True).capset(header, held))
    try:
        yield
    finally:
        held[0] = before
        _check(ctypes.CDLL(None, use_errno=True).capset(header, held))


def _check(failed):
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
