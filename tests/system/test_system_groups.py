"""Parameter groups: who is in which, with which settings; the same bits as torch's own; what is refused, and what is shown."""

import re
from functools import partial

import pytest
import torch
from torch import nn

import treadle
from treadle.core.errors import ConfigError, RunChanged
from treadle.step.fast import Update
from treadle.system.groups import overview
from treadle.system.wrap import fused_where_it_can_be

SGD, ADAMW = partial(torch.optim.SGD, lr=0.1, momentum=0.9), partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
DATA = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(self.norm(x))


class Net(nn.Module):
    """As a small transformer is named."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.embed = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([Block() for _ in range(12)])
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x * self.scale)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def names(optimizer, model):
    """The names of the parameters in each group, by the name of the group."""
    known = {id(p): name for name, p in model.named_parameters()}
    assert [group["param_names"] for group in optimizer.param_groups] == [[known[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    return {group["name"]: group["param_names"] for group in optimizer.param_groups}


def built(optimizer, model=None):
    model = model or Net()
    return names(optimizer(model), model)


def of_block(number):
    return [f"blocks.{number}.{name}" for name in ("norm.weight", "norm.bias", "linear.weight", "linear.bias")]


# --- who is in which ---


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("head", ["head.weight", "head.bias"]),
        ("head.*", ["head.weight", "head.bias"]),
        ("head.bias", ["head.bias"]),
        ("blocks.1", of_block(1)),
        ("blocks.1*", [*of_block(1), *of_block(10), *of_block(11)]),
        ("scale", ["scale"]),
        (re.compile(r"^blocks\.1\.linear"), ["blocks.1.linear.weight", "blocks.1.linear.bias"]),
        (re.compile(r"0\.linear\.w"), ["blocks.0.linear.weight", "blocks.10.linear.weight"]),
        (lambda name, p: p.shape == (3,), ["head.bias"]),
        (["head.bias", "scale"], ["scale", "head.bias"]),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_a_pattern_is_a_name_a_module_a_glob_a_regular_expression_or_a_function(pattern, expected):
    found = built(treadle.groups(SGD, {"some": pattern}))
    assert found["some"] == expected
    everything = [name for name, _ in Net().named_parameters()]
    assert found["default"] == [name for name in everything if name not in expected]


def test_the_first_rule_wins_and_the_rest_is_the_default_group():
    model = Net()
    rules = {"biases": {"params": "*.bias", "lr": 0.5}, "head": {"params": "head", "lr": 0.25, "momentum": 0.0}}
    optimizer = treadle.groups(SGD, rules)(model)
    assert names(optimizer, model)["head"] == ["head.weight"]
    assert [(g["name"], g["lr"], g["momentum"]) for g in optimizer.param_groups] == [("biases", 0.5, 0.9), ("head", 0.25, 0.0), ("default", 0.1, 0.9)]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_where_the_rules_name_everything_there_is_no_rest():
    assert list(built(treadle.groups(SGD, {"all": "*"}))) == ["all"]


def test_no_decay_goes_by_shape_and_by_kind_of_module_and_not_by_name():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_like = nn.Linear(3, 3)  # in name only
            self.plane = nn.LayerNorm((3, 3))  # of two dimensions
            self.seq = nn.Sequential(nn.BatchNorm1d(3), nn.GroupNorm(1, 3), nn.RMSNorm(3), nn.InstanceNorm1d(3, affine=True))
            self.bias = nn.Parameter(torch.zeros(3, 3))  # in name only
            self.embed = nn.Embedding(5, 3)

    model = Odd()
    optimizer = treadle.groups(ADAMW, no_decay=True)(model)
    found = names(optimizer, model)
    assert found["default"] == ["bias", "norm_like.weight", "embed.weight"]
    assert {g["name"]: g["weight_decay"] for g in optimizer.param_groups} == {"default": 0.1, "default/no_decay": 0.0}
    assert len(found["default/no_decay"]) == len(list(model.parameters())) - 3


def test_layers_have_less_and_less_of_the_rate_towards_the_input():
    model = Net()
    optimizer = treadle.groups(SGD, layers=[["scale", "embed"], "blocks", "head"], layer_decay=0.5)(model)
    found = names(optimizer, model)
    assert list(found) == ["scale", *(f"blocks.{n}" for n in range(12)), "head"]
    assert found["scale"] == ["scale", "embed.weight", "embed.bias"] and found["blocks.10"] == of_block(10)
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    assert scales == [0.5**depth for depth in range(13, -1, -1)] and [g["lr"] for g in optimizer.param_groups] == [0.1 * scale for scale in scales]


def test_what_is_in_no_layer_has_the_full_rate():
    optimizer = treadle.groups(SGD, layers=["embed", "blocks"], layer_decay=0.5)(Net())
    assert (optimizer.param_groups[-1]["name"], optimizer.param_groups[-1]["lr"]) == ("default", 0.1)
    assert optimizer.param_groups[-2]["lr"] == 0.1 and optimizer.param_groups[-3]["lr"] == 0.05


def test_rules_layers_and_kinds_go_together():
    model = Net()
    given = treadle.groups(ADAMW, {"head": {"params": "head", "lr": 0.5, "lr_scale": 0.5}}, no_decay=True, layers=["embed", "head"], layer_decay=0.5)
    found = {g["name"]: (g["param_names"], g["lr"], g["weight_decay"]) for g in given(model).param_groups}
    assert found["head/head"] == (["head.weight"], 0.25, 0.1)
    assert found["head/head/no_decay"] == (["head.bias"], 0.25, 0.0)
    assert found["embed/no_decay"] == (["embed.bias"], 0.005, 0.0)
    assert len(found["default/no_decay"][0]) == 1 + 3 * 12 and len(found) == 6


def test_what_is_frozen_is_left_out_of_every_group():
    model = Net()
    model.head.bias.requires_grad_(False)
    model.embed.requires_grad_(False)
    found = built(treadle.groups(SGD, {"head": "head"}, layers=["embed", "blocks"], layer_decay=0.9), model)
    assert found["head"] == ["head.weight"] and "embed" not in found and not any("embed" in name for group in found.values() for name in group)


def test_a_weight_with_two_names_is_in_the_group_of_either():
    model = nn.ModuleDict({"embed": nn.Embedding(3, 4), "head": nn.Linear(4, 3, bias=False), "other": nn.Linear(1, 1)})
    model["head"].weight = model["embed"].weight
    assert built(treadle.groups(SGD, {"head": "head"}), model) == {"head": ["embed.weight"], "default": ["other.weight", "other.bias"]}


def test_names_are_those_of_the_plain_model_where_a_part_is_compiled():
    model = Net()
    model.head = nn.ModuleDict({"_orig_mod": model.head})  # as torch.compile(model.head) names it
    optimizer = treadle.groups(SGD, {"head": "head.*"})(model)
    assert optimizer.param_groups[0]["param_names"] == ["head.weight", "head.bias"]


# --- what it computes ---


def config(folder, **given):
    given = {"duration": "9 steps", "batch_size": 8, "machine": treadle.MachineConfig(device="cpu"), **given}
    log = given.pop("log", treadle.LogConfig(console="quiet", tensorboard=False))
    return treadle.Config(run_dir=folder, log=log, checkpoint=treadle.CheckpointConfig(every="1 step"), **given)


def trainer(optimizer, folder="results/a", model=Net, schedules=None, **given):
    return treadle.Trainer(model, nn.CrossEntropyLoss(), DATA, optimizer=optimizer, schedules=schedules, config=config(folder, **given))


def by_hand(params):
    """The groups of GROUPED, written down for torch."""
    params = list(params)
    assert len(params) == 53
    return torch.optim.AdamW([{"params": params[-2:], "lr": 0.5}, {"params": params[:-2], "weight_decay": 0.0}], lr=0.01, weight_decay=0.1)


GROUPED = treadle.groups(ADAMW, {"head": {"params": "head", "lr": 0.5}, "rest": {"params": "*", "weight_decay": 0.0}})


def by_own_loop(optimizer):
    with treadle.Run(config("results/own")) as run:
        model, moving = run.prepare(trainer(optimizer).model, optimizer)
        run.track(model=model, optimizer=moving)
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(nn.functional.cross_entropy(model(x), y))
            step.update(moving)
    return model


def by_trainer(optimizer):
    one = trainer(optimizer)
    one.fit()
    return one.model


def by_train(optimizer):
    result = treadle.train(Net, nn.CrossEntropyLoss(), DATA, optimizer=optimizer, config=config("results/train"))
    return treadle.load_weights(result.last, Net())


@pytest.mark.parametrize("level", [by_train, by_trainer, by_own_loop])
def test_at_every_level_the_bits_are_those_of_torchs_groups(level):
    one = trainer(by_hand, "results/hand")
    one.fit()
    found = level(GROUPED)
    assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), one.model.state_dict().values(), strict=True))


def test_several_models_have_groups_each():
    def step(now, models, optimizers):
        for x, y in now:
            now.backward(nn.functional.cross_entropy(models["b"](models["a"](x)), y))
        for optimizer in optimizers.values():
            now.update(optimizer)

    models = {"a": lambda: nn.Linear(4, 4), "b": lambda: nn.Linear(4, 3)}
    one = treadle.Trainer(models, None, DATA, optimizer={"a": treadle.groups(SGD, {"bias": "bias"}), "b": SGD}, step=step, config=config("results/a"))
    assert one.fit().status == "finished"
    assert [group["name"] for group in one.optimizer["a"].param_groups] == ["bias", "default"] and len(one.optimizer["b"].param_groups) == 1


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_several_groups_are_moved_without_torchs_wrappers(optimizer, monkeypatch):
    calls, kind = [], optimizer.func
    bundled = Update._bundled
    monkeypatch.setattr(Update, "_bundled", lambda self, params, groups: calls.append(bool(made := bundled(self, params, groups))) or made)
    one = trainer(treadle.groups(optimizer, {"head": "head"}, no_decay=True, layers=["blocks"], layer_decay=0.9))
    one.fit()
    assert type(one.optimizer) is kind and len(one.optimizer.param_groups) == 28
    assert calls == [False, True], "torch's own step makes the state; from then on the bundles are there and stay"


def test_on_a_gpu_the_fused_kernel_is_taken_for_all_groups():
    model = Net()
    trainable = dict(model.named_parameters())
    optimizer = GROUPED.build(model, trainable, lambda factory: fused_where_it_can_be(factory, torch.device("cuda"), list(trainable.values())))
    assert [group["fused"] for group in optimizer.param_groups] == [True, True]


def test_a_schedule_is_scaled_by_each_layers_share():
    layered = treadle.groups(SGD, layers=["embed", "blocks", "head"], layer_decay=0.5)
    one = trainer(layered, schedules={"lr": treadle.schedules.linear(0.4, 0.0)})
    one.fit()
    head = one.optimizer.param_groups[-2]
    assert head["name"] == "head" and one.optimizer.param_groups[-1]["name"] == "default"
    assert 0 < head["lr"] < 0.4 and one.optimizer.param_groups[-1]["lr"] == head["lr"]
    assert [group["lr"] for group in one.optimizer.param_groups[:-1]] == [head["lr"] * 0.5**depth for depth in range(13, -1, -1)]


def test_one_model_may_have_groups_in_each_of_several_optimizers():
    def matrices(name, parameter):
        return parameter.ndim == 2

    given = {"matrices": (treadle.groups(SGD, {"head": "head.weight"}), matrices), "rest": treadle.groups(ADAMW, {"biases": "*.bias"}, no_decay=True)}
    one = trainer(given)
    assert one.fit().status == "finished"
    found = {name: [group["name"] for group in optimizer.param_groups] for name, optimizer in one.optimizer.items()}
    assert found == {"matrices": ["head", "default"], "rest": ["biases/no_decay", "default/no_decay"]}
    with pytest.raises(ConfigError, match=r"the group 'b' is empty: all that it names is frozen \(requires_grad=False\) or another optimizer's"):
        trainer({"matrices": (treadle.groups(SGD, {"b": "*.bias"}), matrices), "rest": ADAMW}, "results/b").fit()


# --- going on ---


def stopped(optimizer, folder="results/a"):
    one = trainer(optimizer, folder)

    @one.on("step_finished", every="4 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()


def test_a_run_goes_on_to_the_same_bits_with_the_names_of_its_groups():
    whole = trainer(GROUPED, "results/whole")
    whole.fit()
    stopped(GROUPED)
    one = trainer(GROUPED)
    assert one.fit().status == "finished"
    assert [group["name"] for group in one.optimizer.param_groups] == ["head", "rest"]
    assert all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), whole.model.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("then", "now", "shown"),
    [
        ({"a": "head", "b": "embed"}, {"b": "embed", "a": "head"}, "  a: 2 tensors (head.weight, head.bias)\n  b: 2 tensors (embed.weight"),
        ({"a": "head"}, {"a": "embed"}, "  a: 2 tensors (embed.weight, embed.bias)\n"),
        ({"a": "head"}, {"a": "head.weight"}, "  a: 1 tensor (head.weight)\n"),
        ({"a": "head"}, {"c": "head"}, "  c: 2 tensors (head.weight, head.bias)\n  default: 51 tensors (scale, embed.weight,"),
        ({"a": "head"}, None, "\nand are\n  group 1: 53 tensors\n"),
        (None, {"a": "head"}, "parameter groups were\n  group 1: 53 tensors\nand are\n  a: 2 tensors"),
    ],
    ids=["another order", "other parameters", "fewer", "another name", "none now", "none then"],
)  # fmt: skip
def test_other_groups_are_refused_and_both_are_shown(then, now, shown):
    stopped(SGD if then is None else treadle.groups(SGD, then))
    with pytest.raises(RunChanged, match=r"the state of 'optimizer' in the checkpoint does not fit this SGD: its parameter groups were\n") as caught:
        trainer(SGD if now is None else treadle.groups(SGD, now)).fit()
    assert shown in str(caught.value)


def test_another_setting_of_a_group_is_refused_by_its_name_and_can_be_accepted():
    stopped(treadle.groups(SGD, {"head": {"params": "head", "lr": 0.5}}))
    other = treadle.groups(SGD, {"head": {"params": "head", "lr": 0.25}})
    with pytest.raises(RunChanged, match=r"another optimizer\n  optimizer, head: lr: 0.5 -> 0.25\n"):
        trainer(other).fit()
    one = trainer(other)
    one.fit(accept_changes=True)
    assert [group["lr"] for group in one.optimizer.param_groups] == [0.25, 0.1]


# --- bad input ---


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda: treadle.groups(SGD, {"a": "haed"}), "the group 'a': 'haed' matches no parameter; did you mean 'head'"),
        (lambda: treadle.groups(SGD, {"a": ["head", "blocks.12"]}), "'blocks.12' matches no parameter; did you mean 'blocks.2' or 'blocks.1' or"),
        (lambda: treadle.groups(SGD, {"a": "*.biases"}), "did you mean '*.bias'"),
        (lambda: treadle.groups(SGD, {"a": re.compile("xyz")}), "re.compile('xyz') matches no parameter; its parameters: scale, embed.weight, "),
        (lambda: treadle.groups(SGD, {"a": "head", "b": "head.bias"}), "the group 'b' is empty: all that it names belongs to 'a', and the first"),
        (lambda: treadle.groups(SGD, {"a": {"params": "head", "learning_rate": 1}}), "the group 'a': SGD has no setting 'learning_rate'"),
        (lambda: treadle.groups(SGD, {"a": {"params": "head", "momentun": 1}}), "did you mean 'momentum'?"),
        (lambda: treadle.groups(SGD, {"a": {"params": "head", "lr": -1.0}}), "lr must be a number, and not negative; got -1.0"),
        (lambda: treadle.groups(SGD, {"a": {"params": "head", "lr": "1e-3"}}), "lr must be a number, and not negative; got '1e-3'"),
        (lambda: treadle.groups(SGD, {"a": {"params": "head", "lr": float("nan")}}), "lr must be a number, and not negative; got nan"),
        (lambda: treadle.groups(SGD, {"a": {"lr": 1.0}}), "the group 'a' does not say which parameters: give 'params'"),
        (lambda: treadle.groups(SGD, {"default": "head"}), "'default' is that of the rest"),
        (lambda: treadle.groups(SGD, {"a": 3}), "a pattern is a name such as"),
        (lambda: treadle.groups(SGD, {"a": []}), "no pattern is given"),
        (lambda: treadle.groups(SGD), "there is nothing to choose groups by"),
        (lambda: treadle.groups(SGD, layers=["head"]), "layers and layer_decay belong together"),
        (lambda: treadle.groups(SGD, layer_decay=0.5), "layers and layer_decay belong together"),
        (lambda: treadle.groups(SGD, layers="blocks", layer_decay=0.5), "layers must be a list"),
        (lambda: treadle.groups(SGD, layers=["blocks"], layer_decay=1.5), "layer_decay must be more than 0 and at most 1, got 1.5"),
        (lambda: treadle.groups(SGD, layers=["block"], layer_decay=0.5), "layers: 'block' matches no parameter; did you mean 'blocks'"),
        (lambda: treadle.groups(SGD(Net().parameters()), {"a": "head"}), "takes a callable that builds an optimizer"),
        (lambda: treadle.groups(treadle.groups(SGD, {"a": "head"}), {"b": "head"}), "takes a callable that builds an optimizer"),
        (lambda: treadle.groups(lambda params: 3, {"a": "head"}), "must give a torch.optim.Optimizer, got int"),
        (lambda: treadle.groups(partial(torch.optim.Rprop), no_decay=True), "the group 'default/no_decay': Rprop has no setting 'weight_decay'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(give, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        trainer(give()).fit()


def test_a_group_of_frozen_parameters_is_empty():
    model = Net()
    model.head.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"the group 'head' is empty: all that it names is frozen \(requires_grad=False\) or another optimizer's"):
        treadle.groups(SGD, {"head": "head"})(model)


def test_it_wants_the_model_and_not_its_parameters():
    with pytest.raises(ConfigError, match="it is called with the model, not with generator"):
        GROUPED(Net().parameters())


# --- a schedule for a group ---


def test_a_schedule_for_a_group_moves_its_half_without_decay_too_but_gives_it_no_decay():
    given = {"lr": {"head": lambda _: 0.25, "default": lambda _: 0.5}, "weight_decay": {"head": lambda _: 0.75}}
    one = trainer(treadle.groups(ADAMW, {"head": "head"}, no_decay=True), schedules=given)
    one.fit()
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in one.optimizer.param_groups}
    assert found == {"head": (0.25, 0.75), "head/no_decay": (0.25, 0.0), "default": (0.5, 0.1), "default/no_decay": (0.5, 0.0)}


def test_a_half_without_decay_may_have_a_schedule_of_its_own():
    given = {"lr": {"default": lambda _: 0.5, "default/no_decay": lambda _: 0.125}}
    one = trainer(treadle.groups(ADAMW, no_decay=True), schedules=given)
    one.fit()
    assert [group["lr"] for group in one.optimizer.param_groups] == [0.5, 0.125]


# --- what is shown ---


def test_the_groups_are_a_table_at_the_start(capfd):
    trainer(
        treadle.groups(ADAMW, {"head": {"params": "head", "lr": 0.5}}, no_decay=True), log=treadle.LogConfig(console="plain", tensorboard=False)
    ).fit()
    lines = capfd.readouterr().out.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("Net, "))
    assert lines[at + 1 : at + 6] == [
        "group             tensors  parameters    lr  decay",
        "head                    1          12   0.5    0.1",
        "head/no_decay           1           3   0.5      0",
        "default                13         208  0.01    0.1",
        "default/no_decay       38         152  0.01      0",
    ]


def test_one_group_is_no_table_and_neither_is_one_of_each_optimizer():
    model = Net()
    assert overview({"optimizer": SGD(model.parameters())}, [model]) == ""
    assert overview({"a": SGD(model.parameters()), "b": SGD(Net().parameters())}, [model]) == ""


def test_what_is_frozen_has_a_line_unless_its_model_does_not_train_at_all():
    model, teacher = Net(), Net()
    optimizer = SGD(model.parameters())
    teacher.requires_grad_(False)
    assert overview({"optimizer": optimizer}, [model, teacher]) == ""
    model.head.requires_grad_(False)
    assert overview({"optimizer": optimizer}, [model, teacher]).splitlines()[-1].split() == ["frozen", "2", "15", "-", "-"]


def test_groups_of_several_optimizers_are_told_with_their_optimizer():
    model = Net()
    table = overview({"optimizer-G": treadle.groups(SGD, {"head": "head"})(model), "optimizer-D": SGD(Net().parameters())}, [model])
    assert [line.split("  ")[0] for line in table.splitlines()[1:]] == ["optimizer-G, head", "optimizer-G, default", "optimizer-D, group 1"]
