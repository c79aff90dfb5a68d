"""For every test and every docstring example: one thread, a temporary working folder, no run left behind."""

import gc
import os
import signal
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for every program that a test starts

import torch

torch.set_num_threads(1)
# A shell starts what runs in the background with Ctrl-C ignored, and what is tested would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is imported by now stays until the end: the collector need not walk over a million objects again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def in_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doctest_namespace: dict[str, object]) -> None:
    monkeypatch.chdir(tmp_path)
    doctest_namespace["tmp"] = str(tmp_path)
