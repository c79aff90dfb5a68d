"""Schedule-free optimizers: weights of training in training, weights to use everywhere else, and no bit moves on the way."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import nn
from torch.nn.functional import mse_loss

import treadle
from deaths import config, goes_on

generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(16, 3, generator=generator), torch.randn(16, 1, generator=generator)
DATA = treadle.Samples((X, Y), sampler="sequential")
KINDS = {"sgd": partial(SGDScheduleFree, lr=0.1), "adamw": partial(AdamWScheduleFree, lr=0.05, warmup_steps=3)}


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def trainer(run_dir: str = "run", handlers: Sequence[object] = (), optimizer: Any = KINDS["adamw"], **given: Any) -> treadle.Trainer:
    evaluate = treadle.EvaluateConfig(every="2 steps")
    return treadle.Trainer(
        net, nn.MSELoss(), DATA, valid=(X, Y), optimizer=optimizer, handlers=handlers, config=config(run_dir, evaluate=evaluate, **given)
    )  # fmt: skip


def flat(weights: Any) -> torch.Tensor:
    values = weights.values() if isinstance(weights, dict) else weights.parameters()
    return torch.cat([value.detach().flatten() for value in values])


def by_hand(kind: Any, steps: int = 7) -> tuple[nn.Module, Any, list[float]]:
    """The loop that the package's page shows, and the loss of the weights to use after every second step."""
    model = net()
    optimizer = kind(model.parameters())
    losses = []
    for number in range(steps):
        optimizer.train()
        optimizer.zero_grad()
        mse_loss(model(X.split(4)[number % 4]), Y.split(4)[number % 4]).backward()
        optimizer.step()
        if number % 2 == 1 or number == steps - 1:
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.eval()
            losses.append(mse_loss(model(X), Y).item())
            optimizer.train()
            with torch.no_grad():
                for p, value in zip(model.parameters(), before, strict=True):
                    p.copy_(value)
    return model, optimizer, losses


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_it_trains_and_evaluates_as_the_loop_by_hand_does(kind: Any) -> None:
    one = trainer(optimizer=kind)
    result = one.fit()
    model, optimizer, losses = by_hand(kind)
    found = [row["valid/loss"] for row in treadle.read_journal("run") if "valid/loss" in row]
    assert found == pytest.approx(losses, rel=1e-6)
    in_training = load_file(result.last / "model-in-training.safetensors")  # type: ignore[operator]
    assert torch.equal(flat({key: in_training[key] for key in model.state_dict()}), flat(model))
    optimizer.eval()
    assert torch.equal(flat(one.model), flat(model))  # after the run: the weights to use
    assert one.evaluate((X, Y))["loss"] == result.metrics["valid/loss"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_run_that_dies_goes_on(kind: Any) -> None:
    goes_on(lambda run_dir, handlers: trainer(run_dir, handlers, kind).fit())


def test_evaluations_and_predictions_move_no_bit() -> None:
    class Looks:
        def __init__(self) -> None:
            self.trainer: Any = None

        def on_step_finished(self, run: treadle.Run) -> None:
            self.trainer.evaluate((X, Y))
            self.trainer.predict((X,))
            run.evaluate(self.trainer.model, nn.MSELoss(), (X, Y))

    looks = Looks()
    looking = trainer("looking", [looks])
    looks.trainer = looking
    looking.fit()
    plain = trainer("plain")
    plain.fit()
    assert torch.equal(flat(looking.model), flat(plain.model))


def test_a_prediction_in_the_middle_of_training_is_that_of_the_weights_to_use() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    one = trainer()

    @one.on("step_finished", every="3 steps")
    def look(run: treadle.Run) -> None:
        predicted = one.predict((X,))
        run.log({"looked": 1.0})
        seen.append((predicted, one.model(X).detach()))

    one.fit()
    assert all(not torch.equal(predicted, trained) for predicted, trained in seen)
    model, optimizer, _ = by_hand(KINDS["adamw"], steps=3)
    optimizer.eval()
    torch.testing.assert_close(seen[0][0], model(X).detach())


def test_the_model_of_a_checkpoint_is_the_one_to_use() -> None:
    given = {"checkpoint": treadle.CheckpointConfig(every="1 step", keep_last=9, best="valid/loss")}
    result = trainer(**given).fit()
    loaded = treadle.load_weights(result.best, net())
    losses = [row["valid/loss"] for row in treadle.read_journal("run") if "valid/loss" in row]
    assert mse_loss(loaded(X), Y).item() == pytest.approx(min(losses))
    again = trainer(**given)
    assert again.fit().status == "finished"  # over: nothing is trained, and the model is the one to use
    assert torch.equal(flat(again.model), flat(treadle.load_weights(result.last, net())))


def test_in_an_own_loop_too() -> None:
    def loop(run_dir: str, handlers: Sequence[object]) -> nn.Module:
        with treadle.Run(config(run_dir), handlers=handlers) as run:
            model, optimizer = run.prepare(net(), KINDS["sgd"])
            run.track(model=model, optimizer=optimizer)
            for step in run.steps(DATA):
                for x, y in step:
                    step.backward(mse_loss(model(x), y))
                step.update(optimizer)
                if run.due("2 steps"):
                    run.log(run.evaluate(model, nn.MSELoss(), (X, Y)), prefix="valid")
        return model

    model, optimizer, _ = by_hand(KINDS["sgd"])
    optimizer.eval()
    assert torch.equal(flat(goes_on(loop)), flat(model))


def test_a_part_of_a_model_may_have_it_and_an_ordinary_optimizer_the_rest() -> None:
    both = {"free": (KINDS["sgd"], "0.*"), "adam": torch.optim.Adam}
    one = goes_on(lambda run_dir, handlers: fitted(trainer(run_dir, handlers, both)))
    assert one.optimizer["free"].param_groups[0]["train_mode"] is False


def fitted(one: treadle.Trainer) -> treadle.Trainer:
    one.fit()
    return one


def test_an_ordinary_run_has_one_set_of_weights() -> None:
    result = trainer(optimizer=torch.optim.Adam).fit()
    assert [path.stem for path in result.last.glob("model*")] == ["model"]  # type: ignore[union-attr]


def test_a_name_that_belongs_to_these_weights_is_taken() -> None:
    with treadle.Run(config("run")) as run, pytest.raises(treadle.errors.UsageError, match="the name is taken"):
        run.track(**{"model-in-training": nn.Linear(1, 1)})
