"""Freeze: no gradient, evaluation mode and no group until the moment, and the bits of a run that was never killed."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import treadle
from treadle.checkpoint.restore import read_checkpoint
from treadle.core.errors import ConfigError, RunChanged
from treadle.log.writer import is_clock
from treadle.step.fast import Update

SGD, ADAMW = partial(torch.optim.SGD, lr=0.1, momentum=0.9), partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
DATA = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3
STEPS = 12
UNTIL = 6
"""Of 12 steps of 8 samples: an epoch has 4."""


class Net(nn.Module):
    """Two parts, with all that a mode changes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 5, bias=False))
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.features(x)))


def config(folder, **given):
    given = {"duration": f"{STEPS} steps", "batch_size": 8, "machine": treadle.MachineConfig(device="cpu"), **given}
    log = given.pop("log", treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"))
    return treadle.Config(run_dir=folder, log=log, checkpoint=treadle.CheckpointConfig(every="1 step"), **given)


def trainer(*handlers, folder="results/a", optimizer=SGD, model=Net, data=DATA, schedules=None, step=None, **given):
    objective = None if step else nn.CrossEntropyLoss()
    return treadle.Trainer(
        model, objective, data, optimizer=optimizer, handlers=handlers, schedules=schedules, step=step, config=config(folder, **given)
    )


def seen_by(one):
    """What holds after each step: is there a gradient to come, the modes, the groups, the running means."""
    seen = {}

    @one.on("step_finished")
    def look(run):
        (model,), (optimizer,) = run.models.values(), run.optimizers.values()
        seen[run.step.number] = {
            "trains": [name for name, p in model.named_parameters() if p.requires_grad],
            "rests": [name for name, module in model.named_modules() if not module.training],
            "groups": [len(group["params"]) for group in optimizer.param_groups],
            "mean": model.features[1].running_mean.clone(),
            "weight": model.features[0].weight.detach().clone(),
        }

    return seen


PART = ["features", "features.0", "features.1", "features.2", "features.3", "features.4"]


def test_what_is_frozen_has_no_gradient_no_group_and_rests_until_its_time():
    one = trainer(treadle.Freeze("features.*", until=f"{UNTIL} steps"))
    seen = seen_by(one)
    fresh = Net().features[1].running_mean
    assert one.fit().status == "finished"
    for step in range(1, UNTIL):
        assert seen[step]["trains"] == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
        assert seen[step]["rests"] == PART and seen[step]["groups"] == [4]
        assert torch.equal(seen[step]["mean"], fresh) and torch.equal(seen[step]["weight"], seen[1]["weight"])
    for step in range(UNTIL, STEPS + 1):
        assert len(seen[step]["trains"]) == 8 and seen[step]["rests"] == [] and seen[step]["groups"] == [4, 4]
    assert torch.equal(seen[UNTIL]["weight"], seen[1]["weight"]) and not torch.equal(seen[UNTIL + 1]["weight"], seen[1]["weight"])
    assert not torch.equal(seen[UNTIL + 1]["mean"], fresh)


def test_without_until_it_is_for_good_and_afterwards_the_model_is_as_it_was_given():
    one = trainer(treadle.Freeze("features"))
    seen = seen_by(one)
    one.fit()
    assert seen[STEPS]["groups"] == [4] and seen[STEPS]["rests"] == PART and torch.equal(seen[STEPS]["weight"], seen[1]["weight"])
    assert all(p.requires_grad for p in one.model.parameters()) and all(module.training for module in one.model.modules())


def by_body(error):
    """A body of the loop that raises in its fifth step."""

    def body(step, model, optimizer):
        for x, y in step:
            step.backward(nn.functional.cross_entropy(model(x), y))
        if step.number == 5:
            raise error
        step.update(optimizer)

    return body


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("until", ["2 steps", "9 steps", None])
def test_however_a_run_ends_the_model_and_the_optimizer_are_whole_again(error, until):
    one = trainer(treadle.Freeze("features", until=until), step=by_body(error))
    with pytest.raises(type(error)):
        one.fit()
    assert all(p.requires_grad for p in one.model.parameters()) and all(module.training for module in one.model.modules())
    assert sum(len(group["params"]) for group in one.optimizer.param_groups) == 8


def test_a_run_that_never_begins_its_loop_and_one_that_is_over_leave_nothing_frozen():
    model = Net()
    with treadle.Run(config("results/b"), handlers=[treadle.Freeze("features")]) as run:
        run.prepare(model, SGD)
    assert all(p.requires_grad for p in model.parameters())
    trainer(treadle.Freeze("features", until="6 steps")).fit()
    again = trainer(treadle.Freeze("features", until="6 steps"))
    assert again.fit().steps == STEPS
    assert all(p.requires_grad for p in again.model.parameters()) and again.model.features.training


def test_a_model_that_its_owner_put_to_rest_is_not_woken_at_the_end():
    with treadle.Run(config("results/a"), handlers=[treadle.Freeze("features")]) as run:
        model, optimizer = run.prepare(Net(), SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(nn.functional.cross_entropy(model(x), y))
            step.update(optimizer)
        model.eval()
    assert not any(module.training for module in model.modules()) and all(p.requires_grad for p in model.parameters())


def test_part_by_part_only_what_trains_is_awake():
    one = trainer(treadle.Freeze("features.[0-3]", until="9 steps"), treadle.Freeze("features.4", until="5 steps"))
    seen = seen_by(one)
    one.fit()
    assert seen[4]["rests"] == PART and seen[4]["groups"] == [4]
    assert seen[8]["rests"] == ["features.0", "features.1"] and seen[8]["groups"] == [4, 1]
    assert torch.equal(seen[8]["mean"], seen[1]["mean"]), "BatchNorm rests until its own moment"
    assert seen[9]["rests"] == [] and seen[9]["groups"] == [4, 1, 3]


def test_an_optimizer_that_came_ready_and_was_used_serves_again():
    model = Net()
    given = {"model": model, "optimizer": SGD(model.parameters())}
    for folder, until in (("results/a", "6 steps"), ("results/b", "6 steps"), ("results/c", None)):
        one = trainer(treadle.Freeze("features", until=until), folder=folder, **given)
        assert one.fit().status == "finished"
        assert sum(len(group["params"]) for group in one.optimizer.param_groups) == 8


def test_what_was_frozen_by_hand_stays_so():
    model = Net()
    model.features[0].requires_grad_(False)
    one = trainer(treadle.Freeze("features"), model=model)
    one.fit()
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["features.0.weight"]


def test_it_trains_as_a_loop_by_hand_that_adds_a_group():
    one = trainer(treadle.Freeze("features", until=f"{UNTIL} steps", lr=0.03), machine=treadle.MachineConfig(device="cpu"))
    batches = []

    def step(now, model, optimizer):
        (batch,) = now
        batches.append((batch, torch.get_rng_state()))
        now.backward(nn.functional.cross_entropy(model(batch[0]), batch[1]))
        now.update(optimizer)

    own = trainer(treadle.Freeze("features", until=f"{UNTIL} steps", lr=0.03), folder="results/own", step=step)
    own.fit()
    one.fit()
    torch.manual_seed(own.config.seed)
    model = trainer(folder="results/none").model
    model.features.requires_grad_(False)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad])
    for number, ((inputs, targets), rng) in enumerate(batches, 1):
        model.features.train(number > UNTIL)
        if number == UNTIL + 1:
            model.features.requires_grad_(True)
            optimizer.add_param_group({"params": model.features.parameters(), "lr": 0.03})
        torch.set_rng_state(rng)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    for found in (one.model, own.model):
        assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_the_state_of_the_others_stays_the_same_to_the_bit(optimizer):
    one, states = trainer(treadle.Freeze("features", until=f"{UNTIL} steps"), optimizer=optimizer), []

    def copied(run):
        (found,), (model,) = run.optimizers.values(), run.models.values()
        names = {p: name for name, p in model.named_parameters()}
        return {(names[p], key): torch.as_tensor(value).clone() for p, state in found.state.items() for key, value in state.items()}

    class Before:
        def on_step_finished(self, run):
            states.append(copied(run)) if run.step.number == UNTIL else None

    one = trainer(Before(), treadle.Freeze("features", until=f"{UNTIL} steps"), Before(), optimizer=optimizer)
    one.fit()
    before, after = states
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert {name for name, _ in before} == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


# --- killed and resumed ---


class Death(Exception):
    """Where a process would be killed: what it did since its last checkpoint is lost."""


def by_trainer(folder, handlers, optimizer, dies=None):
    one = trainer(*handlers, folder=folder, optimizer=optimizer)
    if dies is not None:

        @one.on("checkpoint_saved")
        def die(run):
            if run.progress.steps == dies:
                raise Death

    try:
        one.fit()
    except Death:
        return None
    return final(folder)


def by_own_loop(folder, handlers, optimizer, dies=None):
    try:
        with treadle.Run(config(folder), handlers=handlers) as run:
            model, moving = run.prepare(Net(), optimizer)
            run.track(model=model, optimizer=moving)
            for step in run.steps(DATA):
                if step.number - 1 == dies:
                    raise Death
                for x, y in step:
                    step.backward(nn.functional.cross_entropy(model(x), y))
                step.update(moving, clip=1.0)
    except Death:
        return None
    return final(folder)


def final(folder):
    """What the last checkpoint holds of the training, and each row of the journal without its clocks."""
    states, _ = read_checkpoint(max(Path(folder, "checkpoints").glob("step-*")))
    rows = [{name: value for name, value in row.items() if not is_clock(name) and name != "wall"} for row in treadle.read_journal(folder)]
    return {name: states[name] for name in ("model", "optimizer")}, rows


def flat(tree, path=()):
    if isinstance(tree, dict):
        return {key: value for name, one in tree.items() for key, value in flat(one, (*path, name)).items()}
    if isinstance(tree, (list, tuple)):
        return flat(dict(enumerate(tree)), path)
    return {path: tree.tolist() if isinstance(tree, torch.Tensor) else tree}


def kinds():
    adamw = treadle.groups(ADAMW, {"body": {"params": "features", "lr": 0.003}}, no_decay=True)
    return {
        "sgd": (SGD, lambda: [treadle.Freeze("features", until=f"{UNTIL} steps", lr=0.05)]),
        "adamw": (ADAMW, lambda: [treadle.Freeze("features", until="1.5 epochs", lr_scale=0.5)]),
        "groups": (adamw, lambda: [treadle.Freeze("features.*", until=f"{UNTIL} steps")]),
        "gradual": (
            ADAMW,
            lambda: [treadle.Freeze("features.4", until=f"{UNTIL - 1} steps"), treadle.Freeze("features.[0-3]", until=f"{UNTIL} steps", lr=0.001)],
        ),
        "for good": (SGD, lambda: [treadle.Freeze("features")]),
    }


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("loop", [by_trainer, by_own_loop], ids=["trainer", "own loop"])
def test_killed_before_at_and_after_it_ends_with_the_same_bits(loop, kind):
    optimizer, handlers = kinds()[kind]
    whole = loop("results/whole", handlers(), optimizer)
    assert len(whole[1]) >= STEPS
    for dies in (2, UNTIL - 1, UNTIL, UNTIL + 1):
        folder = f"results/{dies}"
        assert loop(folder, handlers(), optimizer, dies) is None
        found = loop(folder, handlers(), optimizer)
        assert flat(found) == flat(whole), f"killed after step {dies}"


def test_killed_three_times_in_a_row():
    optimizer, handlers = kinds()["gradual"]
    whole = by_trainer("results/whole", handlers(), optimizer)
    for dies in (3, UNTIL - 1, UNTIL):
        assert by_trainer("results/a", handlers(), optimizer, dies) is None
    assert flat(by_trainer("results/a", handlers(), optimizer)) == flat(whole)


def test_the_very_trainer_goes_on_after_an_exception():
    """As in a notebook: model, optimizer and handlers are those of the fit that fell over."""
    whole = by_trainer("results/whole", [treadle.Freeze("features", until=f"{UNTIL} steps", lr=0.05)], SGD)
    for dies in (UNTIL - 1, UNTIL):
        one, alive = trainer(treadle.Freeze("features", until=f"{UNTIL} steps", lr=0.05), folder=f"results/{dies}"), []

        @one.on("checkpoint_saved")
        def die(run, dies=dies, alive=alive):
            if run.progress.steps == dies and not alive:
                alive.append(True)
                raise Death

        with pytest.raises(Death):
            one.fit()
        assert all(p.requires_grad for p in one.model.parameters())
        one.fit()
        assert flat(final(f"results/{dies}")) == flat(whole)


def test_going_on_with_other_parts_frozen_is_refused_with_both():
    assert by_trainer("results/a", [treadle.Freeze("features")], SGD, dies=3) is None
    with pytest.raises(RunChanged, match=r"(?s)parameter groups were.*group 1: 4 tensors.*and are.*group 1: 5 tensors"):
        by_trainer("results/a", [treadle.Freeze("features.0", "features.1")], SGD)


def test_an_accepted_lr_goes_to_what_was_taken_out_too_but_not_over_an_lr_of_its_own():
    for own, expected in ({}, [0.2, 0.2]), ({"lr": 0.05}, [0.2, 0.05]):
        folder = f"results/{len(own)}"
        assert by_trainer(folder, [treadle.Freeze("features", until=f"{UNTIL} steps", **own)], SGD, dies=UNTIL + 1) is None
        one = trainer(treadle.Freeze("features", until=f"{UNTIL} steps", **own), folder=folder, optimizer=partial(SGD, lr=0.2))
        seen = []
        one.on("step_finished")(lambda run, seen=seen, one=one: seen.append([group["lr"] for group in one.optimizer.param_groups]))
        one.fit(accept_changes=True)
        assert seen[-1] == expected


# --- the forms of a step ---


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_step_as_one_graph_takes_the_new_group_in(optimizer):
    """The same graph in eager torch, so that it is quick; a compiler would see the same."""
    import treadle.form.forms

    plain = trainer(treadle.Freeze("features", until=f"{UNTIL} steps"), optimizer=optimizer)
    plain.fit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(treadle.form.forms, "BACKEND", "eager")
        machine = treadle.MachineConfig(device="cpu", compile="step")
        one = trainer(treadle.Freeze("features", until=f"{UNTIL} steps"), optimizer=optimizer, folder="results/b", machine=machine)
        said = []
        patch.setattr("treadle.log.log.Log.say", lambda self, text: said.append(text))
        one.fit()
    assert not [text for text in said if "cannot be one graph" in text]
    for (name, found), expected in zip(one.model.state_dict().items(), plain.model.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)
    assert not torch.equal(one.model.features[0].weight, trainer(folder="results/c").model.features[0].weight)


def test_the_new_group_is_moved_without_torchs_wrappers_too(monkeypatch):
    """But for the first step of each, which makes its state."""
    one = trainer(treadle.Freeze("features", until=f"{UNTIL} steps"), optimizer=treadle.groups(SGD, {"head": "head"}))
    fast, move = [], Update._bundled
    monkeypatch.setattr(
        Update, "_bundled", lambda self, params, groups: fast.append((len(groups), bool(found := move(self, params, groups)))) or found
    )
    one.fit()
    assert fast == [(2, False), (2, True), (3, False), (3, True)], "made anew for new groups, and once their state is there, and never else"


# --- schedules ---


def test_a_schedule_reaches_the_new_group_from_its_first_step_on():
    one = trainer(treadle.Freeze("features", until=f"{UNTIL} steps"), schedules={"lr": treadle.schedules.linear(0.1, 0.0)})
    seen = []
    one.on("step_finished")(lambda run: seen.append([group["lr"] for group in one.optimizer.param_groups]))
    one.fit()
    assert all(len(set(rates)) == 1 for rates in seen[UNTIL:]) and len(seen[-1]) == 2


def test_an_lr_that_a_schedule_would_overwrite_is_refused_before_the_first_step():
    one = trainer(treadle.Freeze("features", until="6 steps", lr=0.01), schedules={"lr": treadle.schedules.constant(0.1)})
    with pytest.raises(ConfigError, match=r"lr=0.01 would not last, since the schedule 'lr' sets it; give lr_scale"):
        one.fit()
    assert not list(treadle.read_journal("results/a"))


def rates(*frozen, schedule, optimizer):
    """The lr of each group in each step, by name and number of tensors."""
    one, seen = trainer(*frozen, schedules={"lr": schedule}, optimizer=optimizer), []
    one.on("step_finished")(lambda run: seen.append([(g["name"], len(g["params"]), round(g["lr"], 6)) for g in one.optimizer.param_groups]))
    one.fit()
    return seen


BODY = treadle.groups(SGD, {"body": {"params": "features"}, "head": "head"})


def test_a_group_that_is_frozen_has_its_schedule_when_it_comes_back():
    by_name = {"body": treadle.schedules.constant(0.01), "head": treadle.schedules.constant(0.02), "default": treadle.schedules.constant(0.03)}
    seen = rates(treadle.Freeze("features", until="6 steps"), schedule=by_name, optimizer=BODY)
    assert seen[0] == [("head", 2, 0.02), ("default", 2, 0.03)]
    assert seen[-1] == [("head", 2, 0.02), ("default", 2, 0.03), ("body", 4, 0.01)]


def test_a_setting_stays_where_the_schedule_is_for_other_groups():
    constant = treadle.schedules.constant
    seen = rates(treadle.Freeze("features", until="6 steps", lr=0.5), schedule={"head": constant(0.02)}, optimizer=BODY)
    assert seen[-1] == [("head", 2, 0.02), ("default", 2, 0.1), ("body", 4, 0.5)]
    with pytest.raises(ConfigError, match=r"lr=0.5 would not last"):
        rates(treadle.Freeze("features", until="6 steps", lr=0.5), schedule={"optimizer": {"body": constant(0.02)}}, optimizer=BODY)


def test_lr_scale_is_a_factor_on_the_schedule():
    seen = rates(treadle.Freeze("features", until="6 steps", lr_scale=0.5), schedule=treadle.schedules.linear(0.1, 0.0), optimizer=SGD)
    for _, body in seen[6:]:
        assert body[0] == "group 1"
    assert all(body[2] == pytest.approx(0.5 * head[2], abs=1e-6) for head, body in seen[6:])


def test_a_scheduler_of_torchs_reaches_what_comes_back():
    torchs = treadle.schedules.from_torch(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 8, gamma=0.5), every="1 step")
    two = treadle.groups(SGD, {"body": {"params": "features", "lr": 0.2}})
    seen = rates(treadle.Freeze("features", until="6 steps"), schedule=torchs, optimizer=two)
    assert seen[0] == [("default", 4, 0.1)] and seen[7] == [("default", 4, 0.1), ("body", 4, 0.2)]
    assert seen[-1] == [("default", 4, 0.05), ("body", 4, 0.1)]


# --- several models ---


def test_one_of_several_models_is_told_by_its_name():
    def step(now, models, optimizers):
        for x, y in now:
            now.backward(nn.functional.cross_entropy(models["b"](models["a"](x)), y))
        for optimizer in optimizers.values():
            now.update(optimizer)

    models = {"a": lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "b": lambda: nn.Linear(4, 3)}
    given = {"model": models, "optimizer": {"a": SGD, "b": ADAMW}, "step": step}
    one, seen = trainer(treadle.Freeze("0", until="3 steps", model="a"), **given), []
    one.on("step_finished")(lambda run: seen.append([len(group["params"]) for group in one.optimizer["a"].param_groups]))
    assert one.fit().status == "finished"
    assert seen[0] == [2] and seen[-1] == [2, 2]
    with pytest.raises(ConfigError, match=r"say which model, as model=\.\.\.; this run trains 'model-a', 'model-b'"):
        trainer(treadle.Freeze("0"), folder="results/b", **given).fit()
    with pytest.raises(ConfigError, match="the run tracks no model named 'modl-a'; did you mean 'model-a'"):
        trainer(treadle.Freeze("0", model="modl-a"), folder="results/c", **given).fit()


# --- bad input ---


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (lambda: treadle.Freeze("feature.*"), r"Freeze('feature.*'): the model 'model': 'feature.*' matches no parameter; did you mean 'features'"),
        (lambda: treadle.Freeze("*.bais"), "matches no parameter; did you mean '*.bias'"),
        (lambda: treadle.Freeze(re.compile("^x")), "re.compile('^x') matches no parameter; its parameters: features.0.weight, "),
        (lambda: treadle.Freeze(lambda name, p: p.ndim == 7), "matches no parameter"),
        (lambda: treadle.Freeze("*"), "Freeze('*') leaves nothing to train for 'optimizer' (SGD)"),
        (lambda: treadle.Freeze("features", until="2 epocs"), "unknown unit 'epocs'"),
        (lambda: treadle.Freeze("features", until="2 steps", momentm=0.5), "SGD has no setting 'momentm'; did you mean 'momentum'?"),
        (lambda: treadle.Freeze("features", until="2 steps", lr="fast"), "lr must be a number, and not negative; got 'fast'"),
        (lambda: treadle.Freeze("features", until="2 steps", lr_scale=-1), "lr_scale must be a number, and not negative; got -1"),
        (lambda: treadle.Freeze("features", lr=0.1), "lr would never hold, since without until= the parts stay frozen"),
        (lambda: treadle.Freeze(), "no pattern is given"),
        (lambda: treadle.Freeze(3), "a pattern is a name such as 'features.*'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(frozen, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        trainer(frozen()).fit()


def test_what_is_in_no_optimizer_cannot_be_unfrozen():
    model = Net()
    model.features.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"'features.0.weight' is in no optimizer.*Freeze takes them out"):
        trainer(treadle.Freeze("features", until="3 steps"), model=model).fit()
    with pytest.raises(ConfigError, match="is in no optimizer"):
        trainer(treadle.Freeze("features.0", until="3 steps"), treadle.Freeze("features", until="5 steps"), folder="results/b").fit()


def test_a_moment_that_never_comes_is_said(capfd):
    trainer(treadle.Freeze("features", until="9 epochs")).fit()
    assert "warning: Freeze('features', until='9 epochs'): the run was over before that" in capfd.readouterr().err


def test_what_it_does_is_said(capfd):
    trainer(treadle.Freeze("features", until="6 steps"), log=treadle.LogConfig(console="plain", tensorboard=False)).fit()
    said = capfd.readouterr().out.splitlines()
    assert "Freeze('features', until='6 steps'): 4 tensors, 66 parameters" in said
    assert "Freeze('features', until='6 steps'): trains from step 7 on" in said
    assert [line.split() for line in said if line.startswith(("group ", "frozen"))][:2] == [
        ["group", "tensors", "parameters", "lr", "decay"],
        ["group", "1", "4", "28", "0.1", "0"],
    ]
    assert ["frozen", "4", "66", "-", "-"] in [line.split() for line in said]
