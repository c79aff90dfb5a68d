"""The complete tree is saved, and loading it gives an equal object."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from treadle.config.build import flatten, to_dict
from treadle.config.loading import config_text, load_config
from treadle.config.schema import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    LogConfig,
    MachineConfig,
)

texts = st.text(st.characters(codec="utf-8"), max_size=12)
counts = st.integers(1, 2**40)
lengths = st.one_of(
    st.builds("{} {}".format, st.integers(1, 10**12), st.sampled_from(["steps", "samples", "epochs"])),
    st.decimals("0.01", "50", places=2).map("{} epochs".format),
)
times = st.one_of(st.floats(1e-6, 1e9), st.integers(1, 10**6), st.builds("{} {}".format, st.integers(1, 99), st.sampled_from(["hours", "minutes"])))
flags = st.booleans()
configs = st.builds(
    Config,
    run_dir=texts.filter(bool),
    duration=lengths,
    batch_size=counts,
    seed=st.integers(0, 2**64 - 1),
    drop_last=flags,
    clip=st.none() | st.floats(min_value=0, exclude_min=True),
    time_limit=st.none() | times,
    machine=st.builds(
        MachineConfig,
        device=texts,
        workers=st.just("auto") | st.integers(0, 99),
        micro_batch=st.none() | counts,
        precision=st.sampled_from(["fp32", "tf32", "bf16", "fp16"]),
        compile=st.sampled_from(["step", "auto"]) | flags,
        cuda_graph=flags,
        channels_last=flags,
        resident=st.just("auto") | flags,
        deterministic=flags,
    ),
    data=st.builds(DataConfig, sampler=st.sampled_from(["shuffle", "sequential", "replacement"])),
    evaluate=st.builds(EvaluateConfig, every=lengths, batch_size=st.none() | counts),
    checkpoint=st.builds(
        CheckpointConfig, every=lengths, keep_last=counts, keep_best=counts, best=st.none() | texts, mode=st.sampled_from(["min", "max"])
    ),
    log=st.builds(
        LogConfig,
        every=lengths,
        console=st.sampled_from(["auto", "rich", "plain", "quiet"]),
        tensorboard=st.just("auto") | flags,
        train_metrics=flags,
    ),
)


def again(config: Any, folder: Path) -> Any:
    (folder / "config.yaml").write_text(config_text(config), encoding="utf-8")
    return load_config(type(config), folder / "config.yaml")


@settings(derandomize=True, database=None, deadline=None)
@given(configs)
@example(Config(run_dir="1e3", duration="1 epoch"))
@example(Config(run_dir="a\x85b\u2028c\nd", duration="1 epoch"))
@example(Config(run_dir="null", duration="1 epoch", checkpoint=CheckpointConfig(best="-1E5")))
@example(Config(run_dir="2024-01-15", duration="1 epoch", machine=MachineConfig(device="yes")))
def test_a_saved_config_is_loaded_as_an_equal_one(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    assert again(config, tmp_path_factory.mktemp("saved")) == config


@settings(derandomize=True, database=None, deadline=None)
@given(configs)
def test_a_config_as_a_dict_and_as_defaults_gives_an_equal_one(config: Config) -> None:
    assert load_config(Config, to_dict(config)) == load_config(Config, defaults=config) == config


def test_the_saved_file_holds_every_knob_in_the_order_of_the_schema(tmp_path: Path) -> None:
    config = Config(run_dir="runs/a", duration="1 epoch")
    (tmp_path / "config.yaml").write_text(config_text(config))
    tree = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert list(tree) == list(Config.__dataclass_fields__)
    assert list(flatten(tree)) == list(flatten(to_dict(config)))


def test_flatten_gives_dotted_paths_and_keeps_empty_sections() -> None:
    assert list(flatten({"a": {"b": 1, "c": {"d": None}}, "e": {}, "f": [1]})) == [("a.b", 1), ("a.c.d", None), ("e", {}), ("f", [1])]


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Mlp:
    width: int = 3


@dataclass(frozen=True)
class Conv:
    width: int = 4


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Config, Config(run_dir="b", duration="5 steps", seed=3)),
        (Mlp | Conv, Conv(9)),
        (Mlp | None, Mlp(1)),
        (Mlp | None, None),
        (list[Mlp], [Mlp(1), Mlp(2)]),
        (list[Mlp], []),
        (list[Mlp | Conv], [Conv(1), Mlp(2)]),
        (dict[str, Mlp], {"a": Mlp(1)}),
        (dict[str, Mlp], {}),
        (dict[int, float], {1: 0.5}),
        (tuple[int, ...], (1, 2)),
        (tuple[int, str], (2, "1e3")),
        (set[str], {"a"}),
        (frozenset[str], frozenset({"a"})),
        (Path, Path("/data/set")),
        (Colour, Colour.RED),
        (str, "1e-3"),
        (float, 1e-5),
        (float, float("inf")),
        (Any, {"a": [1, {"b": None}]}),
    ],
    ids=str,
)
def test_an_own_field_is_saved_and_loaded_as_an_equal_one(hint: Any, value: object, tmp_path: Path) -> None:
    config = make_dataclass("Own", [("x", hint)])(value)
    assert again(config, tmp_path) == config
    assert load_config(type(config), defaults=config) == config


@dataclass
class Derived:
    width: int = 3
    area: int = field(init=False)

    def __post_init__(self) -> None:
        self.area = self.width**2


def test_a_field_that_is_computed_is_computed_again(tmp_path: Path) -> None:
    assert again(Derived(4), tmp_path) == Derived(4)
    assert load_config(Derived, defaults=Derived(4), overrides=["width=5"]).area == 25
