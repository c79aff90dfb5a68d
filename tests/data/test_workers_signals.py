"""Ctrl-C reaches every process of a terminal: the workers go on until the run says so, however they were started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing, os, signal, sys
from functools import partial
import torch, treadle
from torch import nn

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return torch.full((3,), float(index)), index % 2

class Ask:
    def on_step_finished(self, run):
        if run.progress.steps == 3:
            os.killpg(0, signal.SIGINT)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    config = treadle.Config(
        run_dir="run", duration="4 epochs", batch_size=4, machine=treadle.MachineConfig(device="cpu", workers=2),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    result = treadle.train(lambda: nn.Linear(3, 2), nn.CrossEntropyLoss(), Data(), optimizer=partial(torch.optim.SGD, lr=0.1),
                           config=config, handlers=[Ask()])
    print(result.status, result.steps)
"""


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow), pytest.param("spawn", marks=pytest.mark.slow)])
def test_ctrl_c_stops_at_the_safe_point_with_workers_of_every_kind(method: str) -> None:
    Path("program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "program.py", method], capture_output=True, text=True, check=False, start_new_session=True, env=os.environ)
    assert (done.returncode, done.stdout.strip()) == (0, "interrupted: SIGINT 3"), done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
