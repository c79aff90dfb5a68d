"""What it costs, a step, to watch loss and accuracy: a linear classifier of 64 x 84 numbers in 10 classes, where the forward pass is cheap.

    python benchmarks/watching.py [--rounds 7] [--only 'treadle, accuracy'] [--save]

The cost is the marginal one from 300 steps to 3000. A library is compared with itself where nothing is watched, the loops by hand with the bare one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness import Benchmark
from tasks import Task, by_hand, by_treadle
from torch import nn

from treadle.metrics import Accuracy


def task(steps: int) -> Task:
    torch.manual_seed(0)
    batches = [(torch.randn(64, 84), torch.randint(10, (64,))) for _ in range(min(steps, 300))] * -(-steps // 300)
    check = torch.randn(64, 84), torch.randint(10, (64,))
    return Task(nn.Linear(84, 10), nn.functional.cross_entropy, batches[:steps], partial(torch.optim.SGD, lr=0.01), check)


def watched(watch: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None], task: Task) -> Callable[[], Any]:
    """The loop by hand, with a look at output, target and loss after each step."""
    model, loss_of, optimizer = task.model, task.loss, task.optimizer(task.model.parameters())

    def fit() -> Any:
        for x, y in task.batches:
            optimizer.zero_grad()
            output = model(x)
            loss = loss_of(output, y)
            loss.backward()
            optimizer.step()
            watch(output.detach(), y, loss.detach())
        return task.final_loss

    return fit


BENCH = Benchmark(__file__, task, sizes=(300, 3000), small=(3,), unit="us a step", scale=1e-6)
BENCH.add("by hand", by_hand)


@BENCH.entrant("by hand, .item() each step")
def by_item(task: Task) -> Callable[[], Any]:
    values: list[tuple[float, float]] = []
    return watched(lambda output, y, loss: values.append((loss.item(), (output.argmax(1) == y).float().mean().item())), task)


@BENCH.entrant("by hand, sums on the device")
def by_sums(task: Task) -> Callable[[], Any]:
    total, correct = torch.zeros(()), torch.zeros((), dtype=torch.long)

    def watch(output: torch.Tensor, y: torch.Tensor, loss: torch.Tensor) -> None:
        total.add_(loss)
        correct.add_((output.argmax(1) == y).sum())

    return watched(watch, task)


@BENCH.entrant("by hand, torchmetrics", needs="torchmetrics")
def by_torchmetrics(task: Task) -> Callable[[], Any]:
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy

    mean, accuracy = MeanMetric(), MulticlassAccuracy(10, average="micro", validate_args=False)

    def watch(output: torch.Tensor, y: torch.Tensor, loss: torch.Tensor) -> None:
        mean.update(loss)
        accuracy.update(output, y)

    return watched(watch, task)


BENCH.add("treadle, nothing logged", partial(by_treadle, everything=False))
BENCH.add("treadle, loss", partial(by_treadle, everything=True), base="treadle, nothing logged")


@BENCH.entrant("treadle, loss and accuracy", base="treadle, nothing logged")
def with_accuracy(task: Task) -> Callable[[], Any]:
    return by_treadle(task, everything=True, metrics={"accuracy": Accuracy()})


if __name__ == "__main__":
    BENCH.main()
