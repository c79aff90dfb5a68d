"""What a training library adds to a step that is nearly free: Linear(8, 1), batches of 16 that lie ready, SGD.

    python benchmarks/step_overhead.py [--rounds 7] [--only 'treadle, everything'] [--save]

The cost of a step is the marginal one, from 300 steps to 3000, so that what a run does once is left out. "By hand, no optimizer" is the strict
comparison: the update is one `torch._foreach_add_`, without the wrappers of torch.optim.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness import Benchmark
from peers import add_peers
from tasks import TREADLE, Task, by_hand
from torch import nn

LR = 0.01


def task(steps: int) -> Task:
    torch.manual_seed(0)
    batches = [(torch.randn(16, 8), torch.randn(16, 1)) for _ in range(steps)]
    return Task(nn.Linear(8, 1), nn.functional.mse_loss, batches, partial(torch.optim.SGD, lr=LR), check=(torch.randn(64, 8), torch.randn(64, 1)))


BENCH = Benchmark(__file__, task, sizes=(300, 3000), small=(3,), unit="us a step", scale=1e-6)
BENCH.add("by hand", by_hand)


@BENCH.entrant("by hand, no optimizer")
def without_optimizer(task: Task) -> Callable[[], Any]:
    model, loss_of, parameters = task.model, task.loss, list(task.model.parameters())

    def fit() -> Any:
        for x, y in task.batches:
            loss_of(model(x), y).backward()
            with torch.no_grad():
                torch._foreach_add_(parameters, [p.grad for p in parameters], alpha=-LR)
            for p in parameters:
                p.grad = None
        return task.final_loss

    return fit


for name, way in TREADLE.items():
    BENCH.add(name, way)
add_peers(BENCH)

if __name__ == "__main__":
    BENCH.main()
