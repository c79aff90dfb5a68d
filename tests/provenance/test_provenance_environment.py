"""The environment of a record: what a result may depend on, and no secret."""

import os
import sys

import torch

from treadle.provenance.environment import environment, packages


def test_it_says_what_computes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "plain-words")
    monkeypatch.setenv("MY_OWN", "1")
    found = environment(torch.device("cpu"))
    assert found["python"] == ".".join(map(str, sys.version_info[:3])) and found["cores"] == os.cpu_count()
    assert found["threads"] == torch.get_num_threads() and found["torch_build"].startswith(torch.__version__)
    assert found["variables"]["OMP_NUM_THREADS"] == "3" and found["variables"]["HF_TOKEN"] == "(withheld)" and "MY_OWN" not in found["variables"]
    assert found["cpu"] and found["gpus"] == []


def test_it_names_what_is_installed_and_what_of_it_is_imported():
    found = environment(torch.device("cpu"))
    assert found["packages"]["torch"] == torch.__version__ and found["packages"] == packages()
    assert {"torch", "numpy"} <= set(found["imported"]) <= set(found["packages"])
