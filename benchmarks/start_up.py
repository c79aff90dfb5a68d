"""From the start of a process to its end after one step: the script by hand, and with Treadle.

    python benchmarks/start_up.py [--rounds 7] [--only 'import treadle'] [--save]

The scripts train the same Linear(8, 1) for one step, in a git repository of their own. CPU time is that of the process and of those that it starts.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness import Benchmark

PARTS = """
import torch
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(16, 8), torch.randn(16, 1)
model, loss_of = nn.Linear(8, 1), nn.MSELoss()
"""
BY_HAND = f"""{PARTS}
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loss_of(model(x), y).backward()
optimizer.step()
"""
TREADLE = f"""{PARTS}
from functools import partial

import treadle

config = treadle.Config(run_dir="run", duration="1 step", batch_size=16%s)
treadle.train(model, loss_of, (x, y), optimizer=partial(torch.optim.SGD, lr=0.01), config=config)
"""
SCRIPTS = {
    "import torch": "import torch",
    "import torch, treadle": "import torch, treadle\nfor name in treadle.__all__: getattr(treadle, name)",
    "treadle --help": "import sys\nfrom treadle.cli.main import main\nmain(['--help'])",
    "first step by hand": BY_HAND,
    "first step, treadle, nothing logged": TREADLE % ", log=treadle.LogConfig(console='quiet', tensorboard=False)",
    "first step, treadle, everything": TREADLE % "",
}
GIT = ("git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org")


def script(text: str) -> Callable[[int], Callable[[], None]]:
    """An entrant that runs a script, committed in a repository."""

    def prepare(_: int) -> Callable[[], None]:
        Path("script.py").write_text(text)
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all")):
            subprocess.run([*GIT, *words], check=True, stdout=subprocess.DEVNULL)

        def start() -> None:
            subprocess.run([sys.executable, "script.py"], check=True, stdout=subprocess.DEVNULL)

        return start

    return prepare


BENCH = Benchmark(__file__, lambda size: size, sizes=(1,), small=(1,), unit="s a process", scale=1)
for name, text in SCRIPTS.items():
    BENCH.add(name, script(text), base="first step by hand" if name.startswith("first") else "import torch")

if __name__ == "__main__":
    BENCH.main()
