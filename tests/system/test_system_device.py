"""Devices: never silently another one, and torch's settings are put back."""

import pytest
import torch
from torch import nn

import treadle
from treadle.core.errors import ConfigError
from treadle.system.device import deterministic_kernels, pick_device


def settings(folder, device):
    return treadle.Config(
        run_dir=str(folder),
        duration="1 step",
        machine=treadle.MachineConfig(device=device),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )


@pytest.fixture
def bare(monkeypatch):
    """A machine without accelerators, whatever this one has."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "meta"])
def test_a_device_that_is_not_here_is_an_error_that_says_what_is(tmp_path, bare, name):
    message = f"machine.device: '{name}' is not available here; available: cpu"
    with pytest.raises(ConfigError, match=message):
        treadle.Trainer(nn.Linear(1, 1), nn.MSELoss(), (torch.ones(1),), optimizer=torch.optim.SGD, config=settings(tmp_path, name))
    with pytest.raises(ConfigError, match=message), treadle.Run(settings(tmp_path, name)):
        pass
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:", ""])
def test_what_is_no_device_is_an_error_that_says_what_may_be_said(bare, name):
    with pytest.raises(ConfigError, match=f"'{name}' is no device; say auto, cpu, cuda, cuda:1 or mps"):
        pick_device(name)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_the_cpu_is_taken_where_there_is_nothing_else(bare, name):
    assert pick_device(name) == torch.device("cpu")


def test_auto_takes_the_first_gpu_and_a_number_beyond_the_last_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert [pick_device(name) for name in ("auto", "cuda", "cuda:1")] == [torch.device("cuda:0"), torch.device("cuda:0"), torch.device("cuda:1")]
    with pytest.raises(ConfigError, match="'cuda:2' is not available here; available: cpu, cuda:1, cuda:0"):
        pick_device("cuda:2")


def flags():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("benchmark", [True, False])
def test_deterministic_kernels_are_on_for_the_run_and_put_back_after_it(monkeypatch, benchmark):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", benchmark)
    before = flags()
    with pytest.raises(ZeroDivisionError), deterministic_kernels(True):
        assert flags() == (True, True, False, True, False)
        raise ZeroDivisionError
    assert flags() == before
    with deterministic_kernels(False):
        assert flags() == before
