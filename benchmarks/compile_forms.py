"""What machine.compile buys on this machine: the forms of a step of LeNet-5 and of a small GPT, in turn, on one thread.

    taskset -c 0 python benchmarks/compile_forms.py [--rounds 9] [--only gpt]

For each form: the first step in seconds (compilation), CPU time a step against the step as it is (rounds in turn, median of the
ratios within a round), and after how many steps the compilation has paid for itself.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import treadle
from treadle.form.forms import Forms
from treadle.step.objective import as_objective, as_outcome

FORMS: dict[str, dict[str, Any]] = {"eager": {}, "model": {"compile": True}, "step": {"compile": "step"}, "channels_last": {"channels_last": True}}


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.ln1, self.ln2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(attended.transpose(1, 2).reshape(n, t, d))
        return x + self.down(functional.gelu(self.up(self.ln2(x))))


class GPT(nn.Module):
    def __init__(self, vocabulary: int = 65, context: int = 128, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.ln, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        x = self.token(index) + self.place(torch.arange(index.shape[1], device=index.device))
        return self.head(self.ln(self.blocks(x))).transpose(1, 2)


def images() -> Any:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(640, 1, 32, 32, generator=generator), torch.randint(0, 10, (640,), generator=generator)


def text() -> Any:
    tokens = torch.randint(0, 65, (64, 129), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


TASKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], int, int, Any]] = {
    "lenet": (lenet, images, 64, 40, partial(torch.optim.SGD, lr=0.01)),
    "gpt": (GPT, text, 16, 8, partial(torch.optim.AdamW, lr=1e-3)),
}


def turns(task: str, machine: dict[str, Any], steps: int) -> Iterator[float]:
    """CPU seconds: of the first step, then of so many at a time, for ever."""
    build, data, batch, _, optimizer = TASKS[task]
    with tempfile.TemporaryDirectory() as folder:
        config = treadle.Config(
            run_dir=f"{folder}/run", duration="1000000 steps", batch_size=batch, machine=treadle.MachineConfig(device="cpu", **machine),
            data=treadle.DataConfig(leaks="off"), checkpoint=treadle.CheckpointConfig(every="1000000 steps"),
            log=treadle.LogConfig(console="quiet", tensorboard=False),
        )  # fmt: skip
        with treadle.Run(config) as run:
            objective = as_objective(nn.CrossEntropyLoss())
            model, own = run._placed(build(), optimizer)
            run.track(model=model, optimizer=own)

            def standard(step: Any, model: Any, optimizer: Any) -> None:
                for part in step:
                    step.backward(as_outcome(objective(model, part), part))
                step.update(optimizer)

            clock, form, began = time.process_time, None, 0.0
            for step in run.steps(data()):
                if form is None:
                    began = clock()
                    form = Forms(run, model, own, objective, standard, None, has_own_step=False, taken=[], scheduled=set()).as_asked(step)
                form.body(step, form.model, own)
                if step.number == 1 or step.number % steps == 0:
                    yield clock() - began
                    began = clock()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=list(TASKS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {asked.rounds} rounds; CPU time")
    for task in [asked.only] if asked.only else TASKS:
        steps = TASKS[task][3]
        forms = {name: machine for name, machine in FORMS.items() if task == "lenet" or name != "channels_last"}
        ready = {name: turns(task, machine, steps) for name, machine in forms.items()}
        first = {name: next(one) for name, one in ready.items()}
        for one in ready.values():  # the rest of the first turn, which is shorter
            next(one)
        seconds: dict[str, list[float]] = {name: [] for name in ready}
        for number in range(asked.rounds):
            for name in ready if number % 2 == 0 else reversed(ready):
                seconds[name].append(next(ready[name]) / steps)
        for name, own in seconds.items():
            pairs = list(zip(own, seconds["eager"], strict=True))
            saved = statistics.median(eager - mine for mine, eager in pairs)
            pays = f"pays after {first[name] / saved:,.0f} steps" if saved > 0 and name != "eager" else ""
            ratio = statistics.median(mine / eager for mine, eager in pairs)
            print(f"{task:6} {name:14} {ratio:6.3f} x eager  {statistics.median(own) * 1e3:8.2f} ms a step  first step {first[name]:6.1f} s  {pays}")


if __name__ == "__main__":
    main()
