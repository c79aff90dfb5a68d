"""Watch and NoiseScale: right numbers, the same run with them and without, and steps between that do not know of them."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import treadle
from lives import Killed, quiet, rows, same_after_a_fall
from treadle.core.errors import ConfigError

X, Y = torch.randn(32, 4, generator=torch.Generator().manual_seed(1)), torch.randn(32, 1, generator=torch.Generator().manual_seed(2))
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)
CUT = treadle.MachineConfig(device="cpu", micro_batch=3)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))


def trainer(folder, *handlers, optimizer=SGD, **given):
    config = quiet(folder, **{"data": treadle.DataConfig(sampler="sequential", leaks="off"), **given})
    return treadle.Trainer(net(), nn.MSELoss(), (X, Y), optimizer=optimizer, handlers=handlers, config=config)


def by_hand(watched, patterns, clip=None):
    """The same training as a plain loop, and what a watch of some of its steps must say."""
    model = net()
    optimizer, found = SGD(model.parameters()), {}
    for step in range(1, 17):
        place = (step - 1) % 4 * 8
        nn.functional.mse_loss(model(X[place : place + 8]), Y[place : place + 8]).backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters()}
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        if step in watched:
            after = {name: p.detach().clone() for name, p in model.named_parameters()}
            found[step] = {f"{what}{end}": value for end, part in patterns.items() for what, value in norms(grads, before, after, part).items()}
    return found


def norms(grads, before, after, part):
    def of(tensors):
        return torch.cat([value.flatten() for name, value in tensors.items() if name.startswith(part)]).norm().item()

    moved = {name: after[name] - before[name] for name in after}
    return {"grad_norm": of(grads), "weight_norm": of(after), "update_ratio": of(moved) / of(before)}


@pytest.mark.parametrize("machine", [treadle.MachineConfig(device="cpu"), CUT], ids=["whole", "cut"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_norms_are_those_of_a_plain_loop(tmp_path, machine, clip):
    """Of the gradient before it is clipped, and before nesterov momentum is written into it; however the batch is cut."""
    trainer(tmp_path, treadle.Watch(every="3 steps", patterns=["0.*"]), machine=machine, clip=clip).fit()
    logged = {row["step"]: {name[6:]: value for name, value in row.items() if "norm" in name or "ratio" in name} for row in rows(tmp_path)}
    logged = {step: values for step, values in logged.items() if values}
    expected = by_hand((3, 6, 9, 12, 15), {"": "", "/0.*": "0."}, clip)
    assert set(logged) == set(expected)
    for step, values in expected.items():
        assert logged[step] == pytest.approx(values, rel=1e-4)


@pytest.mark.parametrize("handlers", [[], ["watch"], ["watch", "noise"]])
def test_a_watched_run_is_the_same_run(tmp_path, handlers):
    made = {"watch": treadle.Watch(every="2 steps", patterns=["2.*"]), "noise": treadle.NoiseScale(every="3 steps")}
    one = trainer(tmp_path, *(made[name] for name in handlers), machine=CUT, clip=0.5)
    one.fit()
    plain = trainer(tmp_path / "plain", machine=CUT, clip=0.5)
    plain.fit()
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), plain.model.parameters(), strict=True))


def test_steps_between_are_not_watched(tmp_path):
    """Nothing hangs at a step that is not due: no observer, no hook, no copy."""
    watch, noise = treadle.Watch(every="4 steps"), treadle.NoiseScale(every="4 steps")
    one = trainer(tmp_path, watch, noise, machine=CUT)
    armed = {}

    @one.on("step_finished")
    def look(run):
        hooks = sum(len(p._post_accumulate_grad_hooks or ()) for p in one.model.parameters())
        armed[run.progress.steps + 1] = (len(run.step.observers), hooks, len(watch._before))

    one.fit()
    assert {step for step, found in armed.items() if found == (2, 4, 4)} == {4, 8, 12, 16}
    assert all(found == (0, 0, 0) for step, found in armed.items() if step not in (4, 8, 12, 16))


def test_after_a_failure_nothing_is_left_on_the_model(tmp_path):
    one = trainer(tmp_path, treadle.Watch(every="1 step"), treadle.NoiseScale(every="1 step"), machine=CUT)

    @one.on("step_finished")
    def fall(run):
        raise Killed

    with pytest.raises(Killed):
        one.fit()
    assert not any(p._post_accumulate_grad_hooks for p in one.model.parameters())


def test_of_several_models_every_update_is_seen(tmp_path):
    def play(step, models, optimizers):
        for x, y in step:
            step.backward(nn.functional.mse_loss(models["D"](x), y))
        step.update(optimizers["D"])
        seen.append(step.grad_norm.item())
        for x, y in step:
            step.backward(nn.functional.mse_loss(models["G"](x), -y) + models["D"](x).mean())  # leaves a gradient with D, too
        step.update(optimizers["G"])
        seen.append(step.grad_norm.item())

    seen: list[float] = []
    models = {"G": nn.Linear(4, 1), "D": nn.Linear(4, 1)}
    treadle.Trainer(
        models, None, (X, Y), optimizer={"G": SGD, "D": SGD}, step=play, config=quiet(tmp_path, duration="1 step"),
        handlers=[treadle.Watch(every="1 step", patterns=["D.*", "G.*"])],
    ).fit()  # fmt: skip
    (row,) = (row for row in rows(tmp_path) if "train/grad_norm" in row)
    assert (row["train/grad_norm/D.*"], row["train/grad_norm/G.*"]) == pytest.approx(seen)
    assert row["train/grad_norm"] == pytest.approx(math.hypot(*seen))


def test_what_is_not_finite_is_logged_as_it_is_and_does_not_last(tmp_path):
    def objective(model, batch):
        x, y = batch
        loss = nn.functional.mse_loss(model(x), y)
        calls.append(1)
        return loss * math.inf if len(calls) == 4 + 2 else loss  # the 2nd part of the 2nd step; the first is tried once before

    calls: list[int] = []
    watch = treadle.Watch(every="1 step"), treadle.NoiseScale(every="1 step")
    machine = treadle.MachineConfig(device="cpu", micro_batch=3)
    config = quiet(tmp_path, machine=machine, skip_non_finite=1, duration="4 steps", evaluate=treadle.EvaluateConfig(every="4 steps"))
    treadle.Trainer(net(), objective, (X, Y), optimizer=SGD, handlers=watch, config=config).fit()
    found = [(row["train/grad_norm"], row["train/noise_scale"]) for row in rows(tmp_path) if "train/grad_norm" in row]
    assert [math.isfinite(norm) for norm, _ in found] == [True, False, True, True]
    assert math.isnan(found[1][1])


@pytest.mark.parametrize("step", [2, 5, 6, 11])
def test_killed_and_gone_on_it_logs_the_same(tmp_path, step):
    def make(folder):
        return trainer(folder, treadle.Watch(every="3 steps"), treadle.NoiseScale(every="2 steps"), machine=CUT)

    whole = same_after_a_fall(make, tmp_path, step)
    assert sum("train/noise_scale" in row for row in rows(whole.run_dir)) == 8


@pytest.mark.parametrize("level", [2, 3])
def test_levels_agree(tmp_path, level):
    handlers = [treadle.Watch(every="3 steps"), treadle.NoiseScale(every="2 steps")]
    trainer(tmp_path / "two", *handlers, machine=CUT).fit()
    config = quiet(tmp_path / "three", machine=CUT, data=treadle.DataConfig(sampler="sequential"))
    with treadle.Run(config, handlers=handlers) as run:
        model, optimizer = run.prepare(net(), SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps((X, Y)):
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(optimizer)
    one, other = (rows(tmp_path / name) for name in ("two", "three"))
    names = ("train/grad_norm", "train/update_ratio", "train/noise_scale")
    assert [{n: row.get(n) for n in names} for row in one] == [{n: row.get(n) for n in names} for row in other]


# --- the noise scale ---


class Pull(nn.Module):
    """A weight whose gradient at a sample is the sample."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))


def pull(model, batch):
    (x,) = batch
    return (x @ model.weight).mean()


@settings(derandomize=True, deadline=None, database=None, max_examples=10)
@given(seed=st.integers(0, 1000), micro=st.sampled_from([1, 3, 5]))
def test_the_first_estimate_is_the_papers_formula(tmp_path_factory, seed, micro):
    """For parts of any size: sums of squares by hand."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)) + 2
    config = quiet(tmp_path_factory.mktemp("run"), duration="1 step", machine=treadle.MachineConfig(device="cpu", micro_batch=micro))
    treadle.Trainer(Pull(3), pull, (x,), optimizer=SGD, handlers=[treadle.NoiseScale(every="1 step")], config=config).fit()
    parts = [x[some] for some in _order(config, x).split(micro)]
    whole = x.mean(0).double().square().sum()
    noise = (sum(len(part) * part.mean(0).double().square().sum() for part in parts) - len(x) * whole) / (len(parts) - 1)
    expected = (noise / (whole - noise / len(x))).item()
    (found,) = [row["train/noise_scale"] for row in rows(config.run_dir) if "train/noise_scale" in row]
    assert found == pytest.approx(expected, rel=1e-3) if expected > 0 else math.isnan(found)


def _order(config, x):
    from treadle.data.loader import training_loader

    batch = next(training_loader((x,), config, torch.device("cpu")).batches())
    return torch.as_tensor(batch.ids)


def test_it_finds_the_noise_that_is_there(tmp_path):
    """Gradients of mean (3, 0, ...) and variance 4 in each of 5 directions: noise 20, signal 9. The weights do not change them."""
    x = 2 * torch.randn(4096, 5, generator=torch.Generator().manual_seed(3)) + torch.tensor([3.0, 0, 0, 0, 0])
    machine = treadle.MachineConfig(device="cpu", micro_batch=4)
    config = quiet(tmp_path, batch_size=64, duration="1 epoch", machine=machine)
    treadle.Trainer(Pull(5), pull, (x,), optimizer=SGD, handlers=[treadle.NoiseScale(every="1 step")], config=config).fit()
    last = [row["train/noise_scale"] for row in rows(tmp_path) if "train/noise_scale" in row][-1]
    assert last == pytest.approx(20 / 9, rel=0.2)


# --- what cannot be meant ---


@pytest.mark.parametrize("policy", [treadle.Watch, treadle.NoiseScale])
@pytest.mark.parametrize("every", ["1 epoch", "100", "0 steps", "64 samples", 100])
def test_a_cadence_that_is_not_in_steps_is_refused(policy, every):
    with pytest.raises(ConfigError):
        policy(every=every)


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(ConfigError, match=r"Watch: '2.weigth' matches no parameter.*2.weight"):
        trainer(tmp_path, treadle.Watch(patterns=["2.weigth"])).fit()
    with pytest.raises(ConfigError, match="patterns must be a list"):
        treadle.Watch(patterns="0.*")


def test_the_noise_scale_needs_parts_and_one_optimizer(tmp_path):
    with pytest.raises(ConfigError, match=r"there is one: machine.micro_batch=None, batch_size=8; set machine.micro_batch to 2"):
        trainer(tmp_path, treadle.NoiseScale()).fit()
    models, factories = {"G": nn.Linear(4, 1), "D": nn.Linear(4, 1)}, {"G": SGD, "D": SGD}
    config = quiet(tmp_path / "two", machine=CUT)
    with pytest.raises(ConfigError, match="that of one optimizer's gradient, and there are 2: optimizer-G, optimizer-D"):
        treadle.Trainer(models, None, (X, Y), optimizer=factories, step=lambda *_: None, handlers=[treadle.NoiseScale()], config=config).fit()


def test_early_stop_may_look_at_what_is_watched_in_any_order(tmp_path):
    stop, watch = treadle.EarlyStop("train/grad_norm", patience=1, min_delta=1e9), treadle.Watch(every="3 steps")
    assert trainer(tmp_path, stop, watch).fit().steps == 6
