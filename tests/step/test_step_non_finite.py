"""A loss or a gradient that is not finite updates nothing: the run stops, or goes on without that update."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import treadle
from treadle.core.errors import NonFiniteLoss
from treadle.data.batch import Batch, split
from treadle.metrics.means import Means
from treadle.step.gradients import Finiteness
from treadle.step.step import Step
from treadle.system.precision import Precision

NAN, INF = float("nan"), float("inf")
CPU = torch.device("cpu")
SGD = partial(torch.optim.SGD, lr=0.1)


class Spoilt(torch.autograd.Function):
    """Gives its input; the gradient that comes back is not finite."""

    @staticmethod
    def forward(ctx, x, by):
        ctx.by = by
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.by, None


def config(folder, duration="6 steps", **given):
    machine = treadle.MachineConfig(device="cpu", **given.pop("machine", {}))
    return treadle.Config(
        run_dir=str(folder),
        duration=duration,
        batch_size=4,
        machine=machine,
        data=treadle.DataConfig(leaks="off"),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
        **given,
    )


def data(bad=(), what=NAN):
    """Items, and beside each what its gradient is multiplied by: those that are bad, by something else than 1."""
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    factor = torch.ones(24)
    factor[list(bad)] = what
    return treadle.Samples((x, factor), sampler="sequential")


def bad_loss(model, batch):
    x, factor = batch
    return (model(x).square().mean(1) * factor).mean()


def bad_gradient(model, batch):
    x, factor = batch
    return Spoilt.apply(model(x).square().mean(), factor.prod())


def build(batch_norm=False):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4) if batch_norm else nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 2))


def fit(folder, objective, items, optimizer=SGD, model=None, **given):
    """The weights after each step, and the trainer."""
    found = []
    trainer = treadle.Trainer(build() if model is None else model, objective, items, optimizer=optimizer, config=config(folder, **given))
    trainer.on("step_finished")(lambda run: found.append([value.clone() for value in trainer.model.state_dict().values()]))
    trainer.fit()
    return found, trainer


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def capsules(folder):
    return sorted(path.name for path in (folder / "capsules").glob("*"))


# --- stop ---


@pytest.mark.parametrize("what", [NAN, INF, -INF])
@pytest.mark.parametrize("objective", [bad_loss, bad_gradient])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_it_stops_before_anything_is_updated(tmp_path, what, objective, clip):
    model, weights = build(), []

    def watched(model, batch):
        weights[:] = [p.detach().clone() for p in model.parameters()]
        return objective(model, batch)

    with pytest.raises(NonFiniteLoss, match=r"at step 3; nothing was updated in this step. Its samples.*\[8, 9, 10, 11\]") as caught:
        fit(tmp_path / "run", watched, data([9], what), model=model, clip=clip)
    assert equal(weights, model.parameters())
    assert capsules(tmp_path / "run") == ["step-000003"]
    assert "treadle replay" in caught.value.__notes__[0]
    assert ("gradient" in str(caught.value)) == (objective is bad_gradient)


def test_a_norm_that_is_too_large_for_its_type_cannot_be_clipped_to(tmp_path):
    with pytest.raises(NonFiniteLoss, match="the norm of the gradient is inf at step 1"):
        fit(tmp_path / "run", bad_gradient, data([1], 1e30), clip=1.0)
    fit(tmp_path / "unclipped", bad_gradient, data([1], 1e30), duration="1 step")  # each number of it is finite


def test_clipping_leaves_the_gradients_as_they_are_for_who_looks_for_the_bad_ones(tmp_path):
    model = build()

    def objective(model, batch):
        x, factor = batch
        return model[3](Spoilt.apply(model[:3](x), factor.prod())).square().mean()

    with pytest.raises(NonFiniteLoss):
        fit(tmp_path / "run", objective, data([5]), model=model, clip=0.1)
    assert [p.grad.isfinite().all().item() for p in model.parameters()] == [False, False, True, True]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loss_in_the_middle_of_a_cut_batch(tmp_path, precision):
    with pytest.raises(NonFiniteLoss, match=r"step 2; nothing was updated.*\[4, 5, 6, 7\]"):
        fit(tmp_path / "run", bad_loss, data([6]), machine={"micro_batch": 1, "precision": precision})


# --- skip ---

SKIP = {"skip_non_finite": 10}
OPTIMIZERS = {
    "sgd": SGD,
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, lr=0.1),
    "adamw, fused": partial(torch.optim.AdamW, lr=0.1, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("objective", [bad_loss, bad_gradient])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_that_is_left_out_moves_nothing(tmp_path, optimizer, objective, clip, micro_batch, precision):
    items, machine = data([9, 11], NAN), {"micro_batch": micro_batch, "precision": precision}
    found, trainer = fit(tmp_path / "run", objective, items, optimizer, build(batch_norm=True), clip=clip, machine=machine, **SKIP)
    assert equal(found[1], found[2])
    assert not any(equal(*pair) for pair in pairwise(found[:2] + found[3:]))
    assert all(value.isfinite().all() for value in found[-1])
    rows = list(treadle.read_journal(tmp_path / "run"))
    assert [row.get("train/skipped_updates") for row in rows] == [None, None, 1, None, None, None]
    assert all(row.get("train/loss", 0.0) == row.get("train/loss", 0.0) for row in rows)
    assert capsules(tmp_path / "run") == ["step-000003"]
    assert trainer.evaluate(data())["loss"] < INF


def test_a_bad_gradient_left_no_trace_in_the_optimizer(tmp_path):
    """A run whose bad step is left out goes on as if its optimizer had never seen it."""
    adam = partial(torch.optim.Adam, lr=0.1)
    expected, found = nn.Linear(3, 2), nn.Linear(3, 2)
    found.load_state_dict(expected.state_dict())
    fit(tmp_path / "run", bad_gradient, data([9], NAN), adam, found, **SKIP)
    optimizer, x = adam(expected.parameters()), torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    for step in (0, 1, 3, 4, 5):
        expected(x[4 * step : 4 * step + 4]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(found.state_dict(), expected.state_dict())


def test_one_too_many_stops(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"the loss is nan at step 4.*2 updates were left out before it, and skip_non_finite is 2") as caught:
        fit(tmp_path / "run", bad_loss, data([4, 9, 13]), skip_non_finite=2)
    assert "step-000004" in caught.value.__notes__[0]
    assert capsules(tmp_path / "run") == ["step-000002", "step-000003", "step-000004"]


def test_only_the_newest_capsules_stay(tmp_path):
    remains = tmp_path / "run" / "capsules" / ".step-000001.tmp"
    trainer = treadle.Trainer(build(), bad_loss, data(range(0, 20, 4)), optimizer=SGD, config=config(tmp_path / "run", **SKIP))
    trainer.on("run_started")(lambda run: remains.mkdir(parents=True))
    trainer.fit()
    assert capsules(tmp_path / "run") == ["step-000003", "step-000004", "step-000005"]


@pytest.mark.parametrize("objective", [bad_loss, bad_gradient])
def test_a_run_that_leaves_steps_out_goes_on_after_a_crash_to_the_same_bits(tmp_path, objective):
    """The crash comes right before, in and right after a step that is left out; the statistics of BatchNorm and the count are the same."""
    given = {"checkpoint": treadle.CheckpointConfig(every="1 step", background=False), **SKIP}
    whole, _ = fit(tmp_path / "whole", objective, data([9, 17]), model=build(batch_norm=True), **given)
    for number in (2, 3, 4):
        folder = tmp_path / f"cut-{number}"

        def falls(model, batch, calls=[]):  # noqa: B006
            calls.append(1)
            if len(calls) == number + 1:  # noqa: B023
                raise KeyboardInterrupt
            return objective(model, batch)

        with pytest.raises(KeyboardInterrupt):
            fit(folder, falls, data([9, 17]), model=build(batch_norm=True), **given)
        torch.manual_seed(5)
        cut, _ = fit(folder, objective, data([9, 17]), model=build(batch_norm=True), **given)
        assert equal(cut[-1], whole[-1])
        journals = [
            [{key: value for key, value in row.items() if "time" not in key and "per_s" not in key and "seconds" not in key} for row in rows]
            for rows in (list(treadle.read_journal(tmp_path / "whole")), list(treadle.read_journal(folder)))
        ]
        assert [row.get("train/skipped_updates") for row in journals[1]] == [None, None, 1, None, 2, None]
        assert [row.get("train/loss") for row in journals[0]] == [row.get("train/loss") for row in journals[1]]


def test_a_metric_of_training_does_not_count_what_is_left_out(tmp_path):
    def objective(model, batch):
        x, factor = batch
        output = model(x)
        return treadle.Outcome((output.square().mean(1) * factor).mean(), output, factor, logs={"factor": factor.mean()})

    class Largest:
        def __init__(self):
            self.values = []

        def update(self, output, target):
            self.values.append(float(target.sum()))

        def compute(self):
            return sum(self.values)

        def reset(self):
            self.values = []

        def state_dict(self):
            return {"values": self.values}

        def load_state_dict(self, state):
            self.values = state["values"]

    trainer = treadle.Trainer(
        build(), objective, data([9]), optimizer=SGD, metrics={"factors": Largest()}, config=config(tmp_path / "run", "1 epoch", **SKIP)
    )
    result = trainer.fit()
    assert (result.metrics["train/factors"], result.metrics["train/epoch_factor"]) == (20.0, 1.0)


# --- several optimizers ---


def own_loop(folder, bad, seen, **given):
    """Two models with an update each in every step; `bad` says whose loss is not finite."""
    with treadle.Run(config(folder, **given)) as run:
        models, optimizers = run.prepare({"a": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "b": nn.Linear(3, 2)}, {"a": SGD, "b": SGD})
        run.track(a=models["a"], b=models["b"], opt_a=optimizers["a"], opt_b=optimizers["b"])
        for step in run.steps(data()):
            before = {name: [v.clone() for v in model.state_dict().values()] for name, model in models.items()}
            for name in models:
                for x, _ in step:
                    spoilt = x * NAN if name == bad and step.number == 3 else x
                    step.backward(models[name](spoilt).square().mean())
                step.update(optimizers[name], clip=1.0)
            assert step.refused == (step.number == 3)
            seen.append((before, {name: list(model.state_dict().values()) for name, model in models.items()}, step.updates))


@pytest.mark.parametrize("bad", ["a", "b"])
def test_only_the_update_of_the_bad_window_is_left_out(tmp_path, bad):
    seen, other = [], {"a": "b", "b": "a"}[bad]
    own_loop(tmp_path / "run", bad, seen, **SKIP)
    assert [updates for _, _, updates in seen] == [2, 2, 1, 2, 2, 2]
    weights = [[before[name][0] for before, _, _ in seen] for name in (bad, other)]
    assert [torch.equal(*pair) for pair in pairwise(weights[0])] == [False, False, True, False, False]
    assert [torch.equal(*pair) for pair in pairwise(weights[1])] == [False] * 5
    statistics = seen[3][0]["a"]
    assert all(value.isfinite().all() for value in statistics)
    assert equal(statistics[4:], seen[2][0]["a"][4:])  # running mean, variance and count are those from before the step


def test_what_was_updated_before_in_the_same_step_is_said(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"at step 3; 1 other update\(s\) of this step were made before"):
        own_loop(tmp_path / "run", "b", [])


def test_who_catches_it_in_an_own_loop_goes_on_without_that_update(tmp_path):
    with treadle.Run(config(tmp_path / "run")) as run:
        model, optimizer = run.prepare(nn.Linear(3, 2), SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(data([5])):
            before = model.weight.detach().clone()
            for batch in step:
                try:
                    step.backward(bad_loss(model, batch))
                except NonFiniteLoss:
                    assert step.number == 2
            step.update(optimizer)
            assert torch.equal(before, model.weight) == (step.number == 2)


# --- kinds of gradients ---

ONES = torch.ones(3)
KINDS = {
    "plain": lambda x: [ONES, x.repeat(2, 2)],
    "mixed": lambda x: [ONES, x.double(), ONES.bfloat16(), ONES.half()],
    "half": lambda x: [x.half()],
    "complex": lambda x: [torch.complex(ONES[:1], x)],
    "conjugate": lambda x: [torch.complex(ONES[:1], x).conj().imag],
    "sparse": lambda x: [ONES, x.to_sparse()],
    "sparse complex": lambda x: [torch.complex(ONES[:1], x).to_sparse()],
    "compressed": lambda x: [x.reshape(1, 1).to_sparse_csr()],
    "expanded": lambda x: [x.expand(5)],
    "not contiguous": lambda x: [x.repeat(4, 4)[:, ::2]],
    "empty": lambda x: [torch.ones(0), x],
    "large": lambda x: [ONES, x.repeat(100_000)],
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("value", [1.0, NAN, INF, -INF])
def test_every_kind_of_gradient_is_looked_at(kind, value, recwarn):
    finiteness = Finiteness()
    for _ in range(2):  # what was found before is forgotten
        assert finiteness.holds(kind(torch.tensor([1.0])))
        grads = kind(torch.tensor([value]))
        before = [grad.to_dense().clone() for grad in grads]
        assert finiteness.holds(grads) == (value == 1.0)
        assert finiteness.flag(grads).item() == (0.0 if value == 1.0 else 1.0)
        for grad, was in zip(grads, before, strict=True):
            assert torch.equal(grad.to_dense().nan_to_num(), was.nan_to_num())


def test_the_default_type_changes_nothing():
    torch.set_default_dtype(torch.float64)
    try:
        assert Finiteness().holds([torch.ones(2)]) and not Finiteness().holds([torch.tensor([NAN])])
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_embedding_with_sparse_gradients_trains_and_is_guarded(tmp_path):
    items = (torch.arange(24) % 5, torch.tensor([1.0] * 9 + [NAN] + [1.0] * 14))

    def objective(model, batch):
        return Spoilt.apply(model(batch[0]).square().mean(), batch[1].prod())

    model = nn.Embedding(5, 3, sparse=True)
    found, _ = fit(tmp_path / "run", objective, treadle.Samples(items, sampler="sequential"), model=model, **SKIP)
    assert [equal(*pair) for pair in pairwise(found)] == [False, True, False, False, False]


# --- fp16: its scaler looks for itself ---


def test_what_the_loss_scaler_leaves_out_is_not_refused(tmp_path):
    found, _ = fit(tmp_path / "run", bad_gradient, data([9]), machine={"precision": "fp16"}, duration="5 steps")
    assert equal(found[1], found[2]) and not equal(found[3], found[4])
    assert not (tmp_path / "run" / "capsules").exists()


def test_a_loss_that_is_not_finite_is_refused_in_fp16_too(tmp_path):
    found, _ = fit(tmp_path / "run", bad_loss, data([9]), machine={"precision": "fp16", "micro_batch": 3}, **SKIP)
    assert equal(found[1], found[2]) and not equal(found[3], found[4])


# --- accelerators: nobody waits for them ---


class Asked(TorchDispatchMode):
    """Counts how often a number goes from a tensor to the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def device_step(monkeypatch, means):
    """A step that takes this CPU for an accelerator."""
    monkeypatch.setattr(Step, "_is_free", lambda self, device: False)
    return Step(means.add, Precision("fp32", CPU), doubt=means.doubt)


def turn(step, number, model, optimizer, factor=1.0, clip=None):
    batch = (torch.randn(4, 3, generator=torch.Generator().manual_seed(number)), torch.full((4,), factor))
    step.begin(number, Batch(*split(batch, 4, None), 4, False), {})
    for part in step:
        step.backward(bad_gradient(model, part))
    step.update(optimizer, clip=clip)
    step.finish()


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_on_an_accelerator_a_fused_optimizer_looks_by_itself_and_the_host_does_not_wait(monkeypatch, clip, kind):
    means = Means()
    step, model = device_step(monkeypatch, means), nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.1, fused=True)
    turn(step, 1, model, optimizer, clip=clip)
    before = [p.detach().clone() for p in model.parameters()]
    with Asked() as asked:
        turn(step, 2, model, optimizer, NAN, clip)
        assert equal(before, model.parameters())
        turn(step, 3, model, optimizer, clip=clip)
    assert asked.count == 0
    assert not equal(before, model.parameters())
    assert not hasattr(optimizer, "found_inf") and not hasattr(optimizer, "grad_scale")
    with pytest.raises(NonFiniteLoss, match="the gradient of step 2 was not finite"):
        means.fetch()
    means.fetch()  # it is said once


def test_with_skip_an_accelerator_is_asked_at_each_step(monkeypatch):
    monkeypatch.setattr(Step, "_is_free", lambda self, device: False)
    refused, model = [], nn.Linear(3, 2)
    step = Step(Means().add, Precision("fp32", CPU), refuse=refused.append, ask=True)
    optimizer = SGD(model.parameters())
    turn(step, 1, model, optimizer, NAN)
    assert len(refused) == 1 and step.refused and model.weight.isfinite().all()
    turn(step, 2, model, optimizer)
    assert not step.refused


def test_flags_that_nobody_fetches_do_not_pile_up():
    means = Means()
    for step in range(10_000):
        means.doubt(step, torch.zeros(()))
    assert len(means._doubts) < 5000


def test_the_flag_of_a_whole_run_is_seen_before_a_checkpoint_and_keeps_no_wrong_step(tmp_path, monkeypatch):
    monkeypatch.setattr(Step, "_is_free", lambda self, device: False)
    given = config(tmp_path / "run", checkpoint=treadle.CheckpointConfig(every="1 epoch"))
    model = build()
    with pytest.raises(NonFiniteLoss, match="the gradient of step 3 was not finite"):
        treadle.train(model, bad_gradient, data([9]), optimizer=OPTIMIZERS["adamw, fused"], config=given)
    assert not (tmp_path / "run" / "capsules").exists()  # that step is over; another one would be kept in its place
    assert all(p.isfinite().all() for p in model.parameters())


# --- elsewhere ---


def test_a_loss_of_an_evaluation_may_be_what_it_is(tmp_path):
    config_ = config(tmp_path / "run", "1 epoch", evaluate=treadle.EvaluateConfig(every="1 epoch"))
    result = treadle.train(build(), bad_loss, data(), valid=data([3]), optimizer=SGD, config=config_)
    assert result.metrics["valid/loss"] != result.metrics["valid/loss"]
