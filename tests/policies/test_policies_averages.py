"""EMA and SWA: the averages are right to the bit, part of the checkpoint, evaluated beside the raw weights, and exact over a kill."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import treadle
from lives import rows, same_after_a_fall
from treadle import errors
from treadle.checkpoint.restore import read_checkpoint
from treadle.metrics import Accuracy

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
QUIET = treadle.LogConfig(console="quiet", tensorboard=False)
Weights = dict[str, torch.Tensor]


def data(samples: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(1))
    return x, (x.sum(1) > 0).long()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def config(run_dir: Any = "run", **given: Any) -> treadle.Config:
    return treadle.Config(**{"run_dir": str(run_dir), "duration": "3 epochs", "batch_size": 16, "log": QUIET, **given})


def trainer(*handlers: object, **given: Any) -> treadle.Trainer:
    parts = {"model": net, "objective": nn.CrossEntropyLoss(), "data": data(), "optimizer": SGD, "config": config(), **given}
    return treadle.Trainer(parts.pop("model"), parts.pop("objective"), parts.pop("data"), handlers=handlers, **parts)


def copied(model: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class Seen:
    """The weights after each step."""

    def __init__(self, model: str = "model") -> None:
        self.weights: list[Weights] = []
        self._model = model

    def on_step_finished(self, run: treadle.Run) -> None:
        self.weights.append(copied(run.models[self._model]))


def by_hand(weights: list[Weights], decays: list[float]) -> Weights:
    """The average as one writes it in a loop, running statistics included; what is no floating-point number is the newest."""
    average = {name: value.clone() for name, value in weights[0].items()}
    for now, decay in zip(weights[1:], decays, strict=True):
        for name, value in now.items():
            average[name] = torch.lerp(average[name], value, 1 - decay) if value.is_floating_point() else value
    return average


def assert_bits(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def saved(result: treadle.Result, name: str) -> Weights:
    assert result.last is not None
    return read_checkpoint(Path(result.last))[0][name]  # type: ignore[no-any-return]


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_that_of_a_loop_by_hand_to_the_bit(warmup: bool) -> None:
    seen = Seen()
    result = trainer(seen, treadle.EMA(0.8, warmup=warmup)).fit()
    decays = [min(0.8, (1 + n) / (10 + n)) if warmup else 0.8 for n in range(1, len(seen.weights))]
    expected = by_hand(seen.weights, decays)
    assert len(seen.weights) == 9
    assert_bits(saved(result, "ema"), expected)
    assert result.last is not None
    assert_bits(copied(treadle.load_weights(result.last, net(), name="ema")), expected)
    assert not torch.equal(expected["0.weight"], seen.weights[-1]["0.weight"])


@pytest.mark.parametrize(
    ("start", "every", "steps"),
    [(None, "2 steps", [2, 4, 6, 8]), ("50 %", "1 step", [5, 6, 7, 8, 9]), ("2 epochs", "1 step", [6, 7, 8, 9]), ("0 %", "1 epoch", [3, 6, 9])],
)
def test_it_begins_at_its_start_and_averages_at_its_cadence(start: str | None, every: str, steps: list[int]) -> None:
    seen = Seen()
    result = trainer(seen, treadle.EMA(0.7, start=start, every=every)).fit()
    chosen = [seen.weights[step - 1] for step in steps]
    assert_bits(saved(result, "ema"), by_hand(chosen, [0.7] * (len(chosen) - 1)))
    assert saved(result, "EMA") == {"updates": len(steps)}


def test_swa_is_the_mean_of_the_last_part() -> None:
    seen = Seen()
    result = trainer(seen, treadle.SWA(start="50 %", every="1 step")).fit()
    found = saved(result, "swa")
    for name, value in seen.weights[-1].items():
        mean = torch.stack([weights[name].double() for weights in seen.weights[4:]]).mean(0)
        if value.is_floating_point():
            torch.testing.assert_close(found[name].double(), mean, rtol=1e-6, atol=1e-7)
            assert name == "0.bias" or not torch.equal(found[name], value)  # before BatchNorm a bias has no gradient
        else:
            assert torch.equal(found[name], value)  # num_batches_tracked


def test_buffers_that_are_no_statistics_are_those_of_the_model() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.register_buffer("mask", torch.tensor([float("-inf"), 0.0]))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1.0
            return self.linear(x)  # type: ignore[no-any-return]

    seen = Seen()
    result = trainer(seen, treadle.EMA(0.9), treadle.SWA(start="0 %"), model=Masked).fit()
    for name in ("ema", "swa"):
        for buffer in ("mask", "calls"):
            assert torch.equal(saved(result, name)[buffer], seen.weights[-1][buffer])


def test_frozen_statistics_stay_and_frozen_weights_are_their_own_average() -> None:
    model = net()
    model[1].requires_grad_(False).eval()
    model[0].requires_grad_(False)
    before = copied(model)
    result = trainer(treadle.SWA(start="0 %"), treadle.EMA(0.9), model=model).fit()
    for name in ("swa", "ema"):
        found = saved(result, name)
        for key in ("0.weight", "1.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"):
            assert torch.equal(found[key], before[key]), (name, key)
        assert not torch.equal(found["4.weight"], before["4.weight"])


def test_averages_are_evaluated_beside_the_raw_weights_and_may_choose_the_best() -> None:
    best = treadle.CheckpointConfig(best="valid/slow/accuracy", mode="max")
    handlers = treadle.EMA(0.5), treadle.EMA(0.9, name="slow", start="2 epochs"), treadle.EarlyStop("valid/ema/loss", patience=9)
    given = trainer(*handlers, valid=data(30), metrics={"accuracy": Accuracy()}, config=config(checkpoint=best))
    result = given.fit()
    rows = [row for row in treadle.read_journal("run") if "valid/loss" in row]
    assert [{"valid/ema/loss", "valid/ema/accuracy"} <= row.keys() for row in rows] == [True] * 3
    assert ["valid/slow/accuracy" in row for row in rows] == [False, True, True]  # before its start there is nothing to evaluate
    for name in ("ema", "slow"):
        scores = given.evaluate(data(30), weights=name)
        assert scores["loss"] == result.metrics[f"valid/{name}/loss"] != result.metrics["valid/loss"]
        alone = treadle.load_weights(result.last, net(), name=name).eval()
        torch.testing.assert_close(given.predict(data(30), weights=name), alone(data(30)[0]).detach())
    assert given.evaluate(data(30))["loss"] == result.metrics["valid/loss"]
    reached = {row["step"]: row["valid/slow/accuracy"] for row in rows[1:]}
    assert result.best is not None and Path(result.best).name == f"step-{max(reached, key=lambda step: reached[step]):06d}"


def test_training_is_the_same_to_the_bit_with_averages_and_without() -> None:
    def left(folder: str, *handlers: object) -> tuple[Weights, list[Any]]:
        result = trainer(*handlers, valid=data(30), config=config(folder)).fit()
        return saved(result, "model"), [row.get("train/loss") for row in treadle.read_journal(folder)]

    plain, with_them = left("a"), left("b", treadle.EMA(), treadle.SWA(start="0 %", every="1 step"))
    assert_bits(with_them[0], plain[0])
    assert with_them[1] == plain[1]


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.head.weight = self.body.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x).relu())  # type: ignore[no-any-return]

    ema = treadle.EMA(0.9)
    result = trainer(ema, model=Tied).fit()
    assert ema.model.body.weight is ema.model.head.weight
    loaded = treadle.load_weights(result.last, Tied(), name="ema")
    assert loaded.body.weight is loaded.head.weight and torch.equal(loaded.body.weight, ema.model.body.weight)


def two_models(step: treadle.Step, models: Any, optimizers: Any) -> None:
    for x, y in step:
        step.backward(nn.functional.cross_entropy(models["head"](models["body"](x)), y))
    for optimizer in optimizers.values():
        step.update(optimizer)


def test_of_several_models_those_that_are_named() -> None:
    def loss(models: Any, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(models["head"](models["body"](batch[0])), batch[1])

    parts = {"body": partial(nn.Linear, 3, 8), "head": partial(nn.Linear, 8, 2)}
    ema, whole = treadle.EMA(0.9, models=("head",)), treadle.EMA(0.9, name="whole")
    given = trainer(ema, whole, model=parts, optimizer={"body": SGD, "head": SGD}, objective=loss, step=two_models, valid=data(30))
    result = given.fit()
    assert list(ema.models) == ["model-head"] and list(whole.models) == ["model-body", "model-head"]
    assert result.last is not None
    names = {path.stem for path in Path(result.last).glob("*.safetensors")}
    assert {"ema-head", "whole-body", "whole-head"} <= names and "ema-body" not in names
    head = treadle.load_weights(result.last, nn.Linear(8, 2), name="ema-head")
    with torch.no_grad():
        expected = loss({"body": given.model["body"], "head": head}, data(30))
    assert result.metrics["valid/ema/loss"] == pytest.approx(float(expected), rel=1e-6)
    assert len({result.metrics[f"valid/{name}loss"] for name in ("", "ema/", "whole/")}) == 3


def test_in_an_own_loop() -> None:
    ema = treadle.EMA(0.9)
    with treadle.Run(config(), handlers=[ema]) as run:
        model, optimizer = run.prepare(net(), SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(data()):
            for x, y in step:
                step.backward(nn.functional.cross_entropy(model(x), y))
            step.update(optimizer)
        run.log(run.evaluate(ema.model, nn.CrossEntropyLoss(), data(30)), prefix="valid/ema")
        average = ema.model.eval()
        with torch.no_grad():
            expected = nn.functional.cross_entropy(average(data(30)[0]), data(30)[1])
        assert run.latest("valid/ema/loss") == pytest.approx(float(expected), rel=1e-6)
    assert_bits(saved(run.result, "ema"), copied(average))


def test_a_run_that_falls_over_twice_ends_with_the_averages_of_the_run_that_did_not(tmp_path: Path) -> None:
    def make(folder: Path) -> treadle.Trainer:
        handlers = treadle.EMA(0.8, warmup=True), treadle.SWA(start="30 %", every="2 steps")
        saving = treadle.CheckpointConfig(every="2 steps", best="valid/one/ema/loss")
        given = config(folder, checkpoint=saving, evaluate=treadle.EvaluateConfig(every="1 step"))
        return trainer(*handlers, valid={"one": data(30), "two": treadle.Evaluation(data(20), every="2 steps")}, config=given)

    whole = same_after_a_fall(make, tmp_path, 5, 8)
    assert whole.last is not None and "valid/two/swa/loss" in rows(whole.run_dir)[-1]
    states = read_checkpoint(whole.last)[0]
    assert states["EMA"] == {"updates": 9} and states["SWA"] == {"updates": 3}
    assert not torch.equal(states["ema"]["0.weight"], states["swa"]["0.weight"])


def test_any_handler_may_keep_weights() -> None:
    class Zeros:
        """A set of weights of a user's own."""

        name, ready = "zeros", True

        def attach(self, run: treadle.Run) -> None:
            self._average = AveragedModel(run.models["model"])
            for parameter in self._average.parameters():
                parameter.data.zero_()

        @property
        def models(self) -> dict[str, nn.Module]:
            return {"model": self._average.module} if hasattr(self, "_average") else {}

        def on_run_started(self, run: treadle.Run) -> None:
            pass

    given = trainer(Zeros(), valid=data(30), model=partial(nn.Linear, 3, 2))
    assert given.fit().metrics["valid/zeros/loss"] == pytest.approx(0.6931472)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: treadle.EMA(1.0), "EMA: decay must be between 0 and 1, such as 0.999, got 1.0"),
        (lambda: treadle.EMA(-0.1), "got -0.1"),
        (lambda: treadle.EMA("0.9"), "got '0.9'"),
        (lambda: treadle.EMA(float("nan")), "got nan"),
        (lambda: treadle.EMA(every="2 bananas"), "unknown unit 'bananas'"),
        (lambda: treadle.EMA(start="100 %"), "start: '100 %' must be a share of the run from 0 % to less than 100 %"),
        (lambda: treadle.SWA(start="many %"), "start: 'many %' must be a share"),
        (lambda: treadle.SWA(start="nan %"), "start: 'nan %' must be a share"),
        (lambda: treadle.SWA(name="model"), "SWA: name must be a plain word"),
        (lambda: treadle.SWA(name="a/b"), "got 'a/b'"),
        (lambda: treadle.EMA(models="G"), r"must be a sequence of names, such as models=\('G',\)"),
    ],
)
def test_what_cannot_be_is_named(make: Any, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        make()


STREAM, STEPS = treadle.Batches(lambda: iter([data(8)])), config(duration="3 steps")


@pytest.mark.parametrize(
    ("handlers", "given", "error", "message"),
    [
        ([treadle.EMA(models=("modell",))], {}, errors.ConfigError, "EMA: there is no model named 'modell'; did you mean 'model'"),
        ([treadle.EMA(), treadle.EMA()], {}, errors.UsageError, "cannot track 'ema'.*the name is taken"),
        ([treadle.EMA(name="accuracy")], {}, errors.ConfigError, "the weights 'accuracy' have the name of a validation set or of a metric"),
        ([treadle.EMA()], {"valid": {"ema": data(30)}}, errors.ConfigError, "the weights 'ema' have the name of a validation set"),
        ([treadle.EMA(), treadle.EarlyStop("valid/emma/loss")], {}, errors.ConfigError, "named 'valid/emma/loss' is.*mean 'valid/ema/loss'"),
        ([treadle.EMA(every="0.5 epochs")], {"data": STREAM, "config": STEPS}, errors.ConfigError, "EMA: '0.5 epochs' cannot be told"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_run_is_said_before_it_trains(handlers: Any, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trainer(*handlers, **{"valid": data(30), "metrics": {"accuracy": Accuracy()}, **given}).fit()


def test_weights_that_are_not_there_are_refused_with_what_is() -> None:
    given = trainer(treadle.EMA(start="99 %"), treadle.SWA())
    with pytest.raises(errors.UsageError, match=r"no weights named 'emma'.*did you mean 'ema'"):
        given.evaluate(data(8), weights="emma")
    with pytest.raises(errors.UsageError, match=r"the weights 'ema' are not there yet: they come with fit\(\)"):
        given.predict(data(8), weights="ema")


def test_what_is_odd_but_allowed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    loud = treadle.LogConfig(console="plain", tensorboard=False)
    half, x = nn.Linear(3, 2, dtype=torch.bfloat16), data()[0].bfloat16()
    trainer(treadle.EMA(start="9 epochs"), model=half, data=(x, data()[1]), config=config("a", log=loud)).fit()
    said = capsys.readouterr().err
    assert "EMA: 'model' has weights in bfloat16 (weight)" in said
    assert "EMA: nothing was averaged: the run was over before start='9 epochs' and every='1 step' were reached" in said
