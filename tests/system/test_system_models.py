"""Models as people write them: what they return, what their weights are, and that each dies and goes on to the same bits."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils import parametrizations as p12n

import treadle
from deaths import config, goes_on
from treadle.errors import ConfigError, NonFiniteLoss, ObjectiveError

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 3, generator=generator), torch.randn(16, 2, generator=generator)


def trainer(model: Any, run_dir: str = "run", handlers: Sequence[object] = (), **given: Any) -> treadle.Trainer:
    parts = {"objective": nn.MSELoss(), "data": (X, Y), "valid": (X, Y), "optimizer": SGD, **given}
    values = {"machine": treadle.MachineConfig(**parts.pop("machine", {})), **parts.pop("config", {})}
    objective, data = parts.pop("objective"), parts.pop("data")
    return treadle.Trainer(model, objective, data, handlers=handlers, config=config(run_dir, **values), **parts)


def dies_and_goes_on(model: Callable[[], nn.Module], **given: Any) -> treadle.Trainer:
    def train(run_dir: str, handlers: Sequence[object]) -> treadle.Trainer:
        one = trainer(model, run_dir, handlers, **given)
        one.fit()
        return one

    return goes_on(train)  # type: ignore[no-any-return]


# --- what a model returns ---


@dataclass
class Answer:
    out: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    loss: torch.Tensor | None = None


class Named(NamedTuple):
    out: torch.Tensor
    hidden: list[torch.Tensor]


class Output(OrderedDict[str, Any]):
    """As transformers' ModelOutput is: a dict of those fields that are not None, with attributes, and a dataclass in its subclasses."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


@dataclass
class LogitsOutput(Output):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


MAKE = {
    "tuple": lambda out, hidden: (out, [hidden]),
    "named tuple": lambda out, hidden: Named(out, [hidden]),
    "dict": lambda out, hidden: {"out": out, "more": {"hidden": hidden}},
    "ordered dict": lambda out, hidden: OrderedDict(out=out, hidden=hidden),
    "dataclass": lambda out, hidden: Answer(out, (hidden,)),
    "model output": lambda out, hidden: LogitsOutput(logits=out, hidden_states=(hidden,)),
}
TAKE: dict[str, Callable[[Any], torch.Tensor]] = {
    "tuple": lambda found: found[0],
    "named tuple": lambda found: found.out,
    "dict": lambda found: found["out"],
    "ordered dict": lambda found: found["out"],
    "dataclass": lambda found: found.out,
    "model output": lambda found: found.logits,
}


class Net(nn.Module):
    def __init__(self, make: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.body, self.head, self.make = nn.Linear(3, 4), nn.Linear(4, 2), make

    def forward(self, x: torch.Tensor) -> Any:
        hidden = torch.tanh(self.body(x))
        return self.make(self.head(hidden), hidden)


@pytest.mark.parametrize("kind", MAKE)
def test_what_a_model_returns_goes_through_objective_metrics_and_prediction(kind: str) -> None:
    class Error:
        """A metric of the whole output."""

        def __init__(self) -> None:
            self.reset()

        def reset(self) -> None:
            self.total = 0.0

        def update(self, output: Any, target: torch.Tensor) -> None:
            self.total += float((TAKE[kind](output) - target).abs().sum())

        def compute(self) -> float:
            return self.total

    def objective(model: nn.Module, batch: Any) -> treadle.Outcome:
        x, y = batch
        output = model(x)
        return treadle.Outcome(mse_loss(TAKE[kind](output), y), output, y)

    one = dies_and_goes_on(lambda: Net(MAKE[kind]), objective=objective, metrics={"error": Error()})
    predicted = one.predict((X, Y))
    with torch.no_grad():
        expected = one.model(X)
    assert type(predicted) is type(expected)
    torch.testing.assert_close(TAKE[kind](predicted), TAKE[kind](expected))
    if kind == "model output":
        assert predicted.hidden_states[0].shape == (16, 4) and list(predicted) == ["logits", "hidden_states"] and predicted.loss is None


def test_a_model_with_a_loss_of_its_own_is_trained_by_it() -> None:
    class Own(Net):
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Any:  # type: ignore[override]
            out = self.head(torch.tanh(self.body(x)))
            return LogitsOutput(loss=mse_loss(out, labels), logits=out)

    class Pairs(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"x": X[index], "labels": Y[index]}

    dies_and_goes_on(lambda: Own(MAKE["tuple"]), objective=None, data=Pairs(), valid=Pairs())


@pytest.mark.parametrize("kind", MAKE)
def test_a_loss_module_that_gets_no_tensor_says_what_it_gets(kind: str) -> None:
    message = r"MSELoss takes one tensor, and the model returns .*; write an objective"
    with pytest.raises(ObjectiveError, match=message):
        trainer(lambda: Net(MAKE[kind])).fit()
    with treadle.Run(config("own")) as run:
        model, _ = run.prepare(Net(MAKE[kind]), SGD)
        with pytest.raises(ObjectiveError, match=message):
            run.evaluate(model, nn.MSELoss(), (X, Y))


def test_a_loss_of_ones_own_may_take_anything() -> None:
    objective = treadle.supervised(lambda output, target: mse_loss(output[0], target))
    assert trainer(lambda: Net(MAKE["tuple"]), objective=objective).fit().status == "finished"


# --- what its weights are ---


class Tied(nn.Module):
    """Encoder and decoder are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode, self.out = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2)
        self.decode.weight = self.encode.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.decode(torch.tanh(self.encode(x))))  # type: ignore[no-any-return]


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.tensor([True, False, True]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += len(x)
            self.mask = ~self.mask
        return ((x * self.mask).to(self.wave.dtype) @ self.wave).abs()


class Once(nn.Module):
    """Its buffer and its parameter are of types that no gradient has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.table = nn.Parameter(torch.arange(4, dtype=torch.int32), requires_grad=False)
        self.register_buffer("gone", None)
        self.register_buffer("passing", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.passing + self.table.sum()  # type: ignore[no-any-return]


def lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Tanh(), nn.Dropout(0.2), nn.LazyLinear(2))


NETS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: nn.Sequential(p12n.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)),
    "spectral norm": lambda: nn.Sequential(p12n.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)),
    "orthogonal": lambda: nn.Sequential(p12n.orthogonal(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 2)),
    "tied": Tied,
    "complex": Complex,
    "odd types": Once,
    "lazy": lazy,
}


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_each_dies_and_goes_on(net: Callable[[], nn.Module], clip: float | None) -> None:
    one = dies_and_goes_on(net, config={"clip": clip})
    fresh = trainer(net, "fresh", config={"duration": "1 step"})
    fresh.fit()
    treadle.load_weights("died/checkpoints/step-000007", fresh.model)
    for key, value in one.model.state_dict().items():
        assert torch.equal(fresh.model.state_dict()[key], value), key


@pytest.mark.parametrize("net", [net for name, net in NETS.items() if name not in ("lazy", "complex")], ids=lambda net: net.__name__)
def test_in_an_own_loop_too(net: Callable[[], nn.Module]) -> None:
    def loop(run_dir: str, handlers: Sequence[object]) -> None:
        with treadle.Run(config(run_dir), handlers=handlers) as run:
            model, optimizer = run.prepare(net(), SGD)
            run.track(model=model, optimizer=optimizer)
            for step in run.steps((X, Y)):
                for x, y in step:
                    step.backward(mse_loss(model(x), y))
                step.update(optimizer, clip=1.0)
            run.log(run.evaluate(model, nn.MSELoss(), (X, Y)), prefix="valid")

    goes_on(loop)


def test_a_tie_stays_a_tie() -> None:
    one = dies_and_goes_on(Tied)
    assert one.model.encode.weight is one.model.decode.weight
    assert len(one.optimizer.param_groups[0]["params"]) == 3


def test_a_complex_gradient_has_the_norm_of_its_numbers() -> None:
    norms: list[tuple[float, float]] = []

    def body(step: treadle.Step, model: Any, optimizer: Any) -> None:
        for x, y in step:
            step.backward(mse_loss(model(x), y))
        by_hand = float(torch.view_as_real(model.wave.grad).norm())
        step.update(optimizer, clip=0.01)
        norms.append((float(step.grad_norm), by_hand))

    trainer(Complex, objective=None, step=body, valid=None).fit()
    assert [one for one, _ in norms] == pytest.approx([other for _, other in norms], rel=1e-6)


def test_complex_weights_that_are_not_finite_are_not_saved() -> None:
    class Spoils:
        def on_step_finished(self, run: treadle.Run) -> None:
            if run.progress.steps == 3:
                with torch.no_grad():
                    net.wave[0, 0] = complex(0, float("inf"))

    net = Complex()
    with pytest.raises(NonFiniteLoss, match="weights of 'model' are not finite after step 3: wave"):
        trainer(net, handlers=[Spoils()], valid=None).fit()


# --- lazy modules ---


def test_lazy_weights_are_those_of_the_seed_and_of_no_other_layer() -> None:
    first, again, other = (trainer(lazy, name, config={"duration": "1 step", "seed": seed}) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    begun: list[dict[str, torch.Tensor]] = []
    for one in (first, again, other):
        one.on("run_started")(lambda run, one=one: begun.append({key: value.clone() for key, value in one.model.state_dict().items()}))
        one.fit()
    assert all(torch.equal(begun[0][key], value) for key, value in begun[1].items())
    assert not torch.equal(begun[0]["1.weight"], begun[2]["1.weight"])
    assert not torch.equal(begun[0]["1.weight"].flatten()[:9], begun[0]["0.weight"].flatten())
    assert {id(p) for p in first.model.parameters()} == {id(p) for p in first.optimizer.param_groups[0]["params"]}


def test_the_first_batch_of_a_lazy_model_leaves_no_trace() -> None:
    """Neither statistics nor random numbers: the run is that of the model that was built with its shapes."""
    one = trainer(lazy, "lazy")
    weights: dict[str, torch.Tensor] = {}
    one.on("run_started")(lambda run: weights.update({key: value.clone() for key, value in one.model.state_dict().items()}))
    one.fit()

    def built() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 2))
        model.load_state_dict(weights)
        return model

    other = trainer(built, "built")
    other.fit()
    for key, value in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[key], value), key


def test_a_lazy_model_in_a_loop_of_ones_own_is_refused_with_advice() -> None:
    message = r"1.weight, 1.bias, 2.weight of Sequential have no shape yet.*call the model once on an example batch"
    with treadle.Run(config("own")) as run, pytest.raises(ConfigError, match=message):
        run.prepare(lazy(), SGD)
    with pytest.raises(ConfigError, match=message):
        trainer(lazy, objective=None, step=print).fit()


def test_what_a_lazy_model_raises_on_its_first_batch_arrives_with_a_note() -> None:
    with pytest.raises(RuntimeError) as caught:
        trainer(lazy, data=(torch.randn(8, 7), torch.randn(8, 2))).fit()
    assert "lazy modules" in "".join(caught.value.__notes__)
