"""For every test and every docstring example: one thread, a temporary working folder, no run left behind."""

import signal
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
# A shell starts what runs in the background with Ctrl-C ignored, and what is tested would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def in_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doctest_namespace: dict[str, object]) -> None:
    monkeypatch.chdir(tmp_path)
    doctest_namespace["tmp"] = str(tmp_path)
