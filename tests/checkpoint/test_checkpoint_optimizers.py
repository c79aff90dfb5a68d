"""Optimizers as people use them: each trains, dies, goes on, and ends with the bits of a run that was not disturbed."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn.functional import mse_loss
from torch.optim import Optimizer

import treadle
from deaths import config, goes_on
from treadle.checkpoint.optimizers import load_optimizer

generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 3, generator=generator), torch.randn(16, 2, generator=generator)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8, bias=False), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2, bias=False))


def train(optimizer: Any, run_dir: str, handlers: Sequence[object], **given: Any) -> treadle.Trainer:
    parts = {"model": net, "objective": nn.MSELoss(), "data": (X, Y), **given}
    values = parts.pop("config", {})
    model, objective, data = parts.pop("model"), parts.pop("objective"), parts.pop("data")
    one = treadle.Trainer(model, objective, data, optimizer=optimizer, config=config(run_dir, **values), handlers=handlers, **parts)
    one.fit()
    return one


KINDS = {
    "SGD": partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": partial(optim.Adam, amsgrad=True),
    "AdamW": optim.AdamW,
    "Adamax": optim.Adamax,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "RMSprop": partial(optim.RMSprop, momentum=0.9, centered=True),
    "Rprop": optim.Rprop,
    "ASGD": partial(optim.ASGD, t0=2),
    "Adadelta": optim.Adadelta,
    "Adagrad": partial(optim.Adagrad, lr_decay=0.1),
    "Adafactor": optim.Adafactor,
    "Muon": optim.Muon,
    "AdamW capturable": partial(optim.AdamW, lr=torch.tensor(0.01), foreach=False),
    "AdamW fused": partial(optim.AdamW, fused=True),
}


def test_these_are_all_of_torchs_optimizers() -> None:
    """But for LBFGS, which takes a closure, and SparseAdam, which takes sparse gradients: both are below or in test_step_closure."""
    found = {name for name in dir(optim) if isinstance(getattr(optim, name), type) and issubclass(getattr(optim, name), Optimizer)}
    assert found - {"Optimizer"} <= {name.split()[0] for name in KINDS} | {"LBFGS", "SparseAdam"}


@pytest.mark.parametrize("optimizer", KINDS.values(), ids=KINDS)
def test_each_of_torchs_goes_on(optimizer: Callable[[Any], Optimizer]) -> None:
    goes_on(lambda run_dir, handlers: train(optimizer, run_dir, handlers, config={"clip": 1.0}))


# --- sparse gradients ---


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 2, sparse=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.words(x).sum(1)


SPARSE = {"SparseAdam": optim.SparseAdam, "SGD": partial(optim.SGD, lr=0.1), "Adagrad": optim.Adagrad}
GIVEN = [{}, {"clip": 0.1}, {"machine": treadle.MachineConfig(micro_batch=3)}, {"clip": 0.1, "machine": treadle.MachineConfig(micro_batch=3)}]
IDS = torch.randint(0, 50, (16, 5), generator=generator)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # Adagrad makes sparse tensors
@pytest.mark.parametrize("optimizer", SPARSE.values(), ids=SPARSE)
@pytest.mark.parametrize("given", GIVEN, ids=["plain", "clip", "cut", "both"])
def test_sparse_gradients_go_on(optimizer: Callable[[Any], Optimizer], given: dict[str, Any]) -> None:
    goes_on(lambda run_dir, handlers: train(optimizer, run_dir, handlers, model=Words, data=(IDS, Y), config=given))


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_sparse_gradient_does_what_a_dense_one_does(clip: float | None, micro_batch: int | None) -> None:
    found = []
    for sparse in (True, False):

        def words(sparse: bool = sparse) -> nn.Module:
            model = Words()
            model.words.sparse = sparse
            return model

        norms: list[float] = []

        class Watch:
            def on_step_finished(self, run: treadle.Run, norms: list[float] = norms) -> None:
                norms.append(float(run.step.grad_norm))

        def objective(model: Any, batch: Any) -> treadle.Outcome:
            x, y = batch
            return treadle.Outcome(mse_loss(model(x), y), count=(x > 25).sum())  # uneven counts

        machine = treadle.MachineConfig(micro_batch=micro_batch)
        one = train(
            SPARSE["SGD"], str(sparse), [Watch()], model=words, objective=objective, data=(IDS, Y), config={"clip": clip, "machine": machine}
        )  # fmt: skip
        found.append((one.model.words.weight.detach(), torch.tensor(norms)))
    torch.testing.assert_close(found[0], found[1])


# --- states of other kinds ---


class Quantised(Optimizer):
    """Keeps its momentum as bytes with a scale for each, as bitsandbytes does, and other things that are no tensors of the weight's type."""

    def __init__(self, params: Iterable[Any], lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "table": torch.linspace(-1, 1, 256), "kind": "bytes", "block": None})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in filter(lambda p: p.grad is not None, group["params"]):
                state = self.state[weight]
                if not state:
                    state |= {
                        "codes": torch.full(weight.shape, 127, dtype=torch.uint8),
                        "half": torch.zeros(weight.shape, dtype=torch.bfloat16),
                        "signs": torch.zeros(weight.shape, dtype=torch.bool),
                        "inner": {"scale": torch.zeros((), dtype=torch.float64), "steps": 0, "sizes": (1, [2, None])},
                        "name": "momentum",
                        "none": None,
                        "array": np.zeros(3, dtype=np.float32),
                    }
                assert (state["codes"].dtype, state["half"].dtype, state["signs"].dtype) == (torch.uint8, torch.bfloat16, torch.bool)
                assert state["inner"]["scale"].dtype is torch.float64 and state["name"] == "momentum" and state["none"] is None
                momentum = group["table"][state["codes"].long()] * state["inner"]["scale"] * 0.9 + weight.grad + 0.1 * state["half"]
                state["inner"]["scale"] = momentum.abs().max().double()
                state["inner"]["steps"] += 1
                state["codes"] = ((momentum / state["inner"]["scale"] + 1) * 127.5).round().to(torch.uint8)
                state["half"], state["signs"] = weight.grad.bfloat16(), momentum > 0
                state["array"] += 1
                weight.sub_(group["lr"] * momentum.to(weight.dtype))


@pytest.mark.parametrize("given", [{}, {"skip_non_finite": 2}, {"checkpoint": treadle.CheckpointConfig(every="3 steps", background=False)}], ids=str)
def test_state_of_any_type_comes_back_as_it_was(given: dict[str, Any]) -> None:
    one = goes_on(lambda run_dir, handlers: train(Quantised, run_dir, handlers, config=given))
    for state in one.optimizer.state.values():
        assert state["inner"]["steps"] == 7 and state["array"].tolist() == [7.0] * 3 and state["inner"]["sizes"] == (1, [2, None])


def test_a_state_of_its_own_loading_is_left_alone() -> None:
    """bitsandbytes and others load by themselves; what they make of it is theirs."""

    class Loads(optim.SGD):
        def load_state_dict(self, state_dict: Any) -> None:
            super().load_state_dict(state_dict)
            for state in self.state.values():
                state["loaded"] = True

    sgd = partial(Loads, lr=0.1, momentum=0.9)
    one = train(sgd, "run", [], config={"duration": "3 steps"})
    two = train(sgd, "run", [], config={"duration": "3 steps"})
    assert not any("loaded" in state for state in one.optimizer.state.values())
    assert len(two.optimizer.state) == 2 and all(state["loaded"] for state in two.optimizer.state.values())


class Slow(Optimizer):
    """Wraps another optimizer, with slow weights of its own: Zhang et al., Lookahead Optimizer."""

    def __init__(self, params: Iterable[Any]) -> None:
        weights = list(params)
        super().__init__(weights, {"pull": 0.5})
        self.inner, self.count = optim.Adam(weights, lr=0.1), 0
        self.slow = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.inner.step()
        self.count += 1
        if self.count % 2 == 0:
            for weight, slow in zip(self.param_groups[0]["params"], self.slow, strict=True):
                slow.lerp_(weight, self.param_groups[0]["pull"])
                weight.copy_(slow)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "count": self.count, "slow": self.slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.count = state["count"]
        for slow, value in zip(self.slow, state["slow"], strict=True):
            slow.copy_(value)


def test_a_wrapper_with_a_state_dict_of_its_own_goes_on() -> None:
    goes_on(lambda run_dir, handlers: train(Slow, run_dir, handlers))


class WithoutTorchsOwnOptions(torch.optim.Optimizer):
    """As many from outside of torch are: its defaults have nothing that it does not use."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None:
        """Move."""
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(group["lr"] * p.grad)


def test_a_group_that_comes_after_loading_has_the_options_that_it_would_have_had() -> None:
    def grown(*, loaded: bool) -> set[str]:
        optimizer = WithoutTorchsOwnOptions([nn.Parameter(torch.zeros(2))])
        if loaded:
            load_optimizer(optimizer, optimizer.state_dict())
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
        return set(optimizer.param_groups[-1])

    assert grown(loaded=True) == grown(loaded=False) == {"params", "lr"}
