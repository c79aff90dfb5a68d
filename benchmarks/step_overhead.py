"""What Treadle adds to a step that is nearly free: Linear(8, 1), batches of 16 that lie ready, SGD, one thread.

    python benchmarks/step_overhead.py [--rounds 7]

The cost of a step is the marginal one, (T(3000 steps) - T(300 steps)) / 2700, so that what a run does once is left out.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from functools import partial

import torch
from torch import nn

import treadle

LONG, SHORT, LR = 3000, 300, 0.01
Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def by_hand(batches: Pairs) -> None:
    model, loss_of = nn.Linear(8, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()


def by_treadle(batches: Pairs, tensorboard: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = treadle.LogConfig(console="quiet", tensorboard=tensorboard, every="50 steps" if tensorboard else "1e6 steps")
        config = treadle.Config(run_dir=f"{folder}/run", duration="1 epoch", log=log)
        data, sgd = treadle.Batches(batches), partial(torch.optim.SGD, lr=LR)
        treadle.train(nn.Linear(8, 1), nn.MSELoss(), data, optimizer=sgd, config=config)


WAYS = {
    "by hand": by_hand,
    "treadle, nothing logged": partial(by_treadle, tensorboard=False),
    "treadle, journal and TensorBoard": partial(by_treadle, tensorboard=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(16, 8, generator=generator), torch.randn(16, 1, generator=generator)) for _ in range(LONG)]
    costs: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, run in WAYS.items():
            took = []
            for count in (LONG, SHORT):
                began = time.perf_counter()
                run(batches[:count])
                took.append(time.perf_counter() - began)
            if number:  # the first round warms up
                costs[name].append((took[0] - took[1]) / (LONG - SHORT) * 1e6)
    medians = {name: statistics.median(found) for name, found in costs.items()}
    base = medians["by hand"]
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, {rounds} rounds in turn, medians")
    for name, cost in medians.items():
        print(f"{name:34} {cost:6.1f} us a step  {cost - base:+6.1f} us")
    print(json.dumps({name: round(cost, 2) for name, cost in medians.items()}))


if __name__ == "__main__":
    main()
