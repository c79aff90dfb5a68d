"""One epoch of LeNet-5 on MNIST: Treadle against the loop that a careful person writes, in turn, on one thread.

    python benchmarks/lenet_epoch.py [--rounds 5] [--images 20000]

Both index the same resident tensors by the same order, batch 64, AdamW, and end with the same weights, which is checked. Treadle
does what every run of it does besides: it logs the loss, counts training accuracy, keeps the journal and saves checkpoints.
"""

import argparse
import json
import platform
import runpy
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import treadle
from treadle.data.order import Shuffle
from treadle.metrics import Accuracy

RECIPE = runpy.run_path(str(Path(__file__).parents[1] / "recipes" / "lenet_mnist.py"))
SEED, BATCH, LR = 42, 64, 1e-3


def by_hand(data: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, nn.Module]:
    images, labels = data
    treadle.seed(SEED)
    model, loss_of = RECIPE["LeNet5"](), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    import numpy as np

    order = torch.from_numpy(Shuffle().indices(SEED, 0, np.arange(len(labels)), len(labels)))
    began = time.perf_counter()
    for index in order.split(BATCH):
        loss = loss_of(model(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began, model


def by_treadle(data: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, nn.Module]:
    with tempfile.TemporaryDirectory() as folder:
        config = treadle.Config(run_dir=f"{folder}/run", duration="1 epoch", batch_size=BATCH, seed=SEED, log=treadle.LogConfig(console="quiet"))
        trainer = treadle.Trainer(
            RECIPE["LeNet5"],
            nn.CrossEntropyLoss(),
            data,
            optimizer=partial(torch.optim.AdamW, lr=LR),
            metrics={"accuracy": Accuracy()},
            config=config,
        )
        began = time.perf_counter()
        trainer.fit()
        return time.perf_counter() - began, trainer.model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (images, labels), _ = RECIPE["train_and_valid"]()
    data = images[: options.images], labels[: options.images]
    ways: dict[str, Any] = {"by hand": by_hand, "treadle": by_treadle}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        models = {}
        for name in list(ways) if number % 2 else reversed(list(ways)):
            took, models[name] = ways[name](data)
            if number:  # the first round warms up
                seconds[name].append(took)
        for a, b in zip(models["by hand"].parameters(), models["treadle"].parameters(), strict=True):
            assert torch.equal(a, b), "the two did not do the same work"
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, {options.images:,} images, {options.rounds} rounds in turn, medians")
    for name, found in seconds.items():
        print(f"{name:10} {statistics.median(found):6.2f} s an epoch")
    print(f"treadle / by hand: {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f}); the weights are bit-identical")
    print(json.dumps({"ratio": round(statistics.median(ratios), 4), "seconds": {k: round(statistics.median(v), 4) for k, v in seconds.items()}}))


if __name__ == "__main__":
    main()
