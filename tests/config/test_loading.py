"""Layers into one config: where values come from, which one wins, and what the messages say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from treadle.config.loading import load_config
from treadle.config.schema import Config, LogConfig, MachineConfig, config_path, run_config
from treadle.core.errors import ConfigError

BASE = {"run_dir": "runs/a", "duration": "1 epoch"}


@dataclass(frozen=True)
class Mlp:
    width: int = 32
    depth: int = 2


@dataclass(frozen=True)
class Conv:
    channels: int = 8
    depth: int = 3


@dataclass(frozen=True, kw_only=True)
class Holding:
    """An experiment's own config that holds a run."""

    train: Config
    lr: float = 0.1
    model: Mlp | Conv = field(default_factory=Mlp)
    layers: list[int] = field(default_factory=lambda: [1, 2])
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Inheriting(Config):
    """An experiment's own config that is a run."""

    run_dir: str = "runs/own"
    duration: str = "3 epochs"
    lr: float = 0.1


@dataclass(frozen=True)
class Nothing:
    lr: float = 0.1


@dataclass(frozen=True)
class Two:
    first: Config
    second: Config


@dataclass(frozen=True)
class Collections:
    one: Mlp = field(default_factory=Mlp)
    many: list[Mlp] = field(default_factory=list)
    named: dict[str, Mlp] = field(default_factory=dict)


def write(folder: Path, text: str, name: str = "exp.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(cls: Any, *sources: Any, overrides: tuple[str, ...] = (), defaults: Any = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(cls, *sources, overrides=overrides, defaults=defaults)
    return str(caught.value)


# --- the same config from everywhere ---


def test_python_dict_yaml_and_command_line_give_equal_configs(tmp_path: Path) -> None:
    made = Config(run_dir="runs/a", duration="1 epoch", clip=1e-3, machine=MachineConfig(device="cpu", workers="auto"))
    tree = {**BASE, "clip": 1e-3, "machine": {"device": "cpu", "workers": "auto"}}
    file = write(tmp_path, "run_dir: runs/a\nduration: 1 epoch\nclip: 1e-3\nmachine:\n  device: cpu\n  workers: auto\n")
    words = ["run_dir=runs/a", "duration=1 epoch", "clip=1e-3", "machine.device=cpu", "machine.workers=auto"]
    assert load_config(Config, tree) == load_config(Config, file) == load_config(Config, str(file)) == load_config(Config, overrides=words) == made


def test_defaults_lose_to_files_and_files_to_the_command_line(tmp_path: Path) -> None:
    file = write(tmp_path, "batch_size: 2\nseed: 2\nmachine: {micro_batch: 2, workers: 2}\n")
    later = write(tmp_path, "machine: {workers: 3}\n", "later.yaml")
    defaults = Config(**BASE, batch_size=1, seed=1, clip=1, machine=MachineConfig(micro_batch=1, workers=1, device="cpu"))
    config = load_config(Config, file, later, overrides=["seed=4", "seed=5"], defaults=defaults)
    assert (config.clip, config.batch_size, config.seed) == (1, 2, 5)
    assert config.machine == MachineConfig(device="cpu", micro_batch=2, workers=3)


def test_a_later_layer_changes_one_value_of_a_section_given_as_an_object() -> None:
    config = load_config(Config, {**BASE, "machine": MachineConfig(workers=2)}, overrides=["machine.device=cpu"])
    assert config.machine == MachineConfig(device="cpu", workers=2)


def test_what_no_layer_says_is_the_default() -> None:
    assert load_config(Config, BASE) == Config(**BASE)
    assert load_config(Config, {**BASE, "machine": {}}) == Config(**BASE)


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("run_dir=123", "run_dir", "123"),
        ("run_dir=1e3", "run_dir", "1e3"),
        ("run_dir=true", "run_dir", "true"),
        ("run_dir=2024-01-15", "run_dir", "2024-01-15"),
        ("run_dir=2024-13-45", "run_dir", "2024-13-45"),
        ("run_dir=[a]", "run_dir", "[a]"),
        ("run_dir=a=b", "run_dir", "a=b"),
        ("run_dir=@a", "run_dir", "@a"),
        ("seed=7", "seed", 7),
        ("clip=1e-3", "clip", 1e-3),
        ("clip=null", "clip", None),
        ("drop_last=true", "drop_last", True),
        ("machine.device = cuda:0", "machine.device", "cuda:0"),
        ("log.tensorboard=false", "log.tensorboard", False),
        ("checkpoint.best=valid/accuracy", "checkpoint.best", "valid/accuracy"),
        ("machine={device: cpu, workers: 2}", "machine", MachineConfig(device="cpu", workers=2)),
    ],
)
def test_a_word_on_the_command_line_means_what_its_field_is(text: str, path: str, expected: object) -> None:
    found: Any = load_config(Config, BASE, overrides=[text])
    for name in path.split("."):
        found = getattr(found, name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("text", ["seed", "=3", " =3", ""])
def test_a_word_that_is_no_override_is_refused_with_an_example(text: str) -> None:
    assert refused(Config, BASE, overrides=(text,)) == f"{text!r} is not an override; write key=value, such as batch_size=64 or machine.device=cpu"


# --- a user's own dataclass ---


def test_a_run_held_in_a_field_is_reached_by_its_path(tmp_path: Path) -> None:
    file = write(tmp_path, "lr: 1e-3\ntrain:\n  run_dir: runs/b\n  duration: 2 epochs\n  machine:\n    device: cpu\n")
    config = load_config(Holding, file, overrides=["train.seed=4", "layers=[3]", "weights={a: 1, b: 2}"])
    assert config.train == Config(run_dir="runs/b", duration="2 epochs", seed=4, machine=MachineConfig(device="cpu"))
    assert (config.lr, config.layers, config.weights) == (1e-3, [3], {"a": 1.0, "b": 2.0})
    assert run_config(config) is config.train
    assert config_path(config) == "train"


def test_a_run_that_is_inherited_is_reached_at_the_top() -> None:
    config = load_config(Inheriting, {"lr": 1}, overrides=["log.console=quiet"])
    assert config == Inheriting(lr=1.0, log=LogConfig(console="quiet"))
    assert run_config(config) is config
    assert config_path(config) == ""


def test_an_inheriting_config_is_checked_with_its_own_fields() -> None:
    with pytest.raises(ConfigError, match=r"Inheriting\.lr: got 'fast'"):
        Inheriting(lr="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "defaults", [Inheriting(lr=0.5, seed=3), Holding(train=Config(**BASE, clip=2), model=Conv(5), layers=[9], weights={"a": 1.0})]
)
def test_an_instance_as_defaults_is_kept_where_no_layer_speaks(defaults: Any) -> None:
    assert load_config(type(defaults), defaults=defaults) == defaults
    assert load_config(type(defaults), overrides=["lr=2"], defaults=defaults) == dataclasses.replace(defaults, lr=2.0)


@pytest.mark.parametrize(("tree", "name"), [(Nothing(), "Nothing"), (Two(Config(**BASE), Config(**BASE)), "Two"), (3, "int")])
def test_a_config_without_exactly_one_run_is_refused(tree: object, name: str) -> None:
    with pytest.raises(ConfigError, match=f"got {name}"):
        run_config(tree)


def test_mutable_values_are_shared_with_nothing() -> None:
    defaults, source = Holding(train=Config(**BASE)), {"layers": [7], "train": BASE}
    first, second = load_config(Holding, defaults=defaults), load_config(Holding, defaults=defaults)
    third = load_config(Holding, source)
    for config in (first, second, third):
        config.layers.append(0)
        config.weights["a"] = 1.0
    assert (first.layers, second.layers, third.layers) == ([1, 2, 0], [1, 2, 0], [7, 0])
    assert (defaults.layers, defaults.weights, source["layers"]) == ([1, 2], {}, [7])
    assert Holding(train=Config(**BASE)).layers == [1, 2]


def test_layers_are_not_changed_by_loading() -> None:
    source = {**BASE, "machine": {"device": "cpu"}}
    load_config(Config, source, {"machine": {"workers": 2}}, overrides=["machine.device=cuda"])
    assert source == {**BASE, "machine": {"device": "cpu"}}


# --- one of several dataclasses ---


@pytest.mark.parametrize(("text", "expected"), [("{type: Conv, channels: 4}", Conv(4)), ("{type: Mlp, width: 4}", Mlp(4)), ("{type: Conv}", Conv())])
def test_type_says_which_dataclass_of_several_is_meant(text: str, expected: object, tmp_path: Path) -> None:
    assert load_config(Holding, {"train": BASE}, write(tmp_path, f"model: {text}")).model == expected


def test_no_type_or_a_wrong_one_is_refused_with_line_path_and_names(tmp_path: Path) -> None:
    missing = refused(Holding, {"train": BASE}, write(tmp_path, "lr: 1\nmodel:\n  channels: 4\n"))
    assert missing == "exp.yaml:3: model: got no type; say 'model.type', one of Mlp, Conv"
    wrong = refused(Holding, {"train": BASE}, write(tmp_path, "lr: 1\nmodel:\n  channels: 4\n  type: Cov\n"))
    assert wrong == "exp.yaml:4: model: got 'Cov'; say 'model.type', one of Mlp, Conv"


@pytest.mark.parametrize("given", ["[Conv]", "{a: Conv}", "3", "null"])
def test_a_type_that_is_no_name_is_refused(given: str, tmp_path: Path) -> None:
    assert "one of Mlp, Conv" in refused(Holding, {"train": BASE}, write(tmp_path, f"model:\n  type: {given}\n"))


def test_another_type_drops_the_values_of_the_old_one() -> None:
    defaults = Holding(train=Config(**BASE), model=Mlp(width=5, depth=5))
    assert load_config(Holding, overrides=["model.type=Conv"], defaults=defaults).model == Conv()
    assert load_config(Holding, {"model": {"type": "Conv", "channels": 1}}, overrides=["model.depth=1"], defaults=defaults).model == Conv(1, 1)


def test_the_same_type_keeps_the_values() -> None:
    defaults = Holding(train=Config(**BASE), model=Conv(channels=5, depth=5))
    assert load_config(Holding, overrides=["model.type=Conv", "model.depth=1"], defaults=defaults).model == Conv(5, 1)
    assert load_config(Holding, overrides=["model.depth=1"], defaults=defaults).model == Conv(5, 1)


def test_a_key_of_another_type_is_refused() -> None:
    assert "unknown key 'model.width'" in refused(Holding, {"train": BASE, "model": {"type": "Conv", "width": 3}})


# --- collections of dataclasses ---


def test_dataclasses_in_a_list_or_under_names_are_built(tmp_path: Path) -> None:
    file = write(tmp_path, "many:\n- width: 3\n- {}\nnamed:\n  a:\n    depth: 1\n")
    assert load_config(Collections, file) == Collections(many=[Mlp(3), Mlp()], named={"a": Mlp(depth=1)})


@pytest.mark.parametrize("text", ["one: {widht: 3}", "many:\n- widht: 3", "named:\n  a:\n    widht: 3"])
def test_a_misspelt_key_in_a_collection_is_refused_too(text: str, tmp_path: Path) -> None:
    message = refused(Collections, write(tmp_path, text))
    assert "widht" in message
    assert message.startswith("exp.yaml:")


def test_a_single_section_where_a_list_is_wanted_is_refused() -> None:
    assert refused(Collections, {"many": {"width": 3}}).startswith("many: ")


# --- unknown and missing keys ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nbatchsize: 3\n", "exp.yaml:2: unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("seed: 1\nmachine:\n  device: cpu\n  devise: cpu\n", "exp.yaml:4: unknown key 'machine.devise'; did you mean 'machine.device'?"),
        ("presicion: bf16\n", "exp.yaml:1: unknown key 'presicion'; did you mean 'machine.precision'?"),
        ("evaluate:\n  keep_last: 3\n", "exp.yaml:2: unknown key 'evaluate.keep_last'; did you mean 'checkpoint.keep_last'?"),
        ("log:\n  zzz: 3\n", "exp.yaml:2: unknown key 'log.zzz'; known: console, every, tensorboard, train_metrics"),
        ("seed: 1\nmachin:\n  device: cpu\n", "exp.yaml:3: unknown key 'machin'; did you mean 'machine'?"),
        ("seed: 1\n3: a\n", "exp.yaml:2: unknown key '3'; known: "),
    ],
)
def test_an_unknown_key_is_refused_with_line_path_and_nearest_name(text: str, says: str, tmp_path: Path) -> None:
    assert refused(Config, BASE, write(tmp_path, text)).startswith(says)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seeds=3", "command line: unknown key 'seeds'; did you mean 'train.seed'?"),
        ("train.devise=cpu", "command line: unknown key 'train.devise'; did you mean 'train.machine.device'?"),
        ("lrr=3", "command line: unknown key 'lrr'; did you mean 'lr'?"),
        ("chanels=3", "command line: unknown key 'chanels'; did you mean 'model.channels'?"),
        ("train.machine.=3", "command line: unknown key 'train.machine.'; known: channels_last, compile"),
    ],
)
def test_an_unknown_key_in_an_own_config_is_answered_with_the_path_from_the_top(override: str, says: str) -> None:
    assert refused(Holding, {"train": BASE}, overrides=(override,)).startswith(says)


def test_an_unknown_keyword_in_python_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="batchsize"):
        Config(**BASE, batchsize=3)  # type: ignore[call-arg]


def test_a_missing_key_is_named_with_its_path() -> None:
    assert refused(Config, {"run_dir": "a"}) == "'duration' is missing; give it in the file or as duration=..."
    assert refused(Holding, {"train": {"run_dir": "a"}}) == "'train.duration' is missing; give it in the file or as train.duration=..."
    assert "'train' is missing" in refused(Holding)


# --- files ---


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-3", "1.e-3", "+1e-3", "0.001", "1_0e-4"])
def test_a_number_with_an_exponent_is_a_float(number: str, tmp_path: Path) -> None:
    source = {"train": BASE}
    clip = load_config(Config, BASE, write(tmp_path, f"clip: {number}\n")).clip
    weights = load_config(Holding, source, write(tmp_path, f"weights:\n  a: {number}\n")).weights
    assert (clip, weights) == (1e-3, {"a": 1e-3})


def test_a_negative_number_with_an_exponent_is_a_float(tmp_path: Path) -> None:
    assert load_config(Nothing, write(tmp_path, "lr: -2e3\n")).lr == -2000.0


def test_a_text_that_only_begins_like_a_number_stays_a_text(tmp_path: Path) -> None:
    config = load_config(Config, write(tmp_path, "run_dir: 1e3x\nduration: 1e3 steps\n"))
    assert (config.run_dir, config.duration) == ("1e3x", "1e3 steps")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nclip: 1\nseed: 2\n", "exp.yaml:3: the key 'seed' is given twice"),
        ("machine:\n  device: cpu\n  workers: 1\n  device: cuda\n", "exp.yaml:4: the key 'device' is given twice"),
        ("machine: {device: cpu,\n  device: cuda}\n", "exp.yaml:2: the key 'device' is given twice"),
        ("machine:\n  device: cpu\nmachine:\n  workers: 1\n", "exp.yaml:3: the key 'machine' is given twice"),
    ],
)
def test_a_key_given_twice_is_refused_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    assert refused(Config, BASE, write(tmp_path, text)) == says


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n", "---\n", "{}"])
def test_an_empty_file_says_nothing(text: str, tmp_path: Path) -> None:
    assert load_config(Config, BASE, write(tmp_path, text)) == Config(**BASE)


@pytest.mark.parametrize("text", ["- seed\n- 3\n", "seed\n", "3\n", "[]"])
def test_a_file_that_holds_no_keys_is_refused(text: str, tmp_path: Path) -> None:
    assert refused(Config, BASE, write(tmp_path, text)).startswith("exp.yaml: a config file holds keys and values, got ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed: 1\nmachine: [1\n", 3),
        ("seed: 1\n\tclip: 1\n", 2),
        ("seed: 1\nrun_dir: 'a\n", 3),
        ("seed: 1\nclip: 1: 2\n", 2),
        ("seed: 1\nclip: *nowhere\n", 2),
        ("seed: 1\nclip: !!python/name:os.system ''\n", 2),
        ("seed: 1\n---\nseed: 2\n", 2),
    ],
    ids=["open list", "tab", "open quote", "two colons", "no such anchor", "python object", "two documents"],
)
def test_broken_yaml_is_refused_with_file_and_line(text: str, line: int, tmp_path: Path) -> None:
    assert refused(Config, BASE, write(tmp_path, text)).startswith(f"exp.yaml:{line}: ")


@pytest.mark.parametrize(
    "content",
    [b"run_dir: caf\xe9\n", b"run_dir: a\x00b\n", b"run_dir: 2024-13-45\n", b"machine: &again\n  device: *again\n"],
    ids=["not UTF-8", "a control character", "no such date", "contains itself"],
)
def test_a_file_that_cannot_be_understood_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "exp.yaml"
    path.write_bytes(content)
    assert "exp.yaml" in refused(Config, BASE, path)


def test_a_file_that_cannot_be_read_is_refused_with_its_path_and_the_reason(tmp_path: Path) -> None:
    assert refused(Config, BASE, tmp_path / "no.yaml") == f"cannot read the config file '{tmp_path / 'no.yaml'}': No such file or directory"
    assert refused(Config, BASE, tmp_path).startswith(f"cannot read the config file '{tmp_path}': ")


def test_an_anchor_may_be_used_again(tmp_path: Path) -> None:
    config = load_config(Config, BASE, write(tmp_path, "evaluate: {every: &often 5 steps}\ncheckpoint: {every: *often}\n"))
    assert (config.evaluate.every, config.checkpoint.every) == ("5 steps", "5 steps")


def test_a_constructors_own_error_is_told_with_its_path() -> None:
    assert refused(Guarded, {"inner": {"low": 2, "high": 1}}) == "inner: low must not be over high"


@dataclass(frozen=True)
class Range:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low must not be over high")


@dataclass(frozen=True)
class Guarded:
    inner: Range
