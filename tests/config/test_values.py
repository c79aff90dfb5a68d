"""What every field refuses, and what the message says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Gt, Le

from treadle.config.build import flatten, hints, to_dict
from treadle.config.loading import load_config
from treadle.config.schema import (
    Checked,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    LogConfig,
    MachineConfig,
)
from treadle.core.errors import ConfigError

BASE = {"run_dir": "runs/a", "duration": "1 epoch"}

COUNT = [(0, "greater than 0"), (-1, "greater than 0"), (True, "int"), (1.5, "integer"), ("many", "integer")]
TEXT = [(3, "string"), (True, "str"), ([], "string")]
LENGTH = [
    (10, "'10 epochs'"),
    ("10", "'10 epochs'"),
    ("10 parsecs", "'10 epochs'"),
    ("-1 epochs", "'10 epochs'"),
    ("0 steps", "more than zero"),
    ("0.5 steps", "whole number of steps"),
    (True, "str"),
    (None, "string"),
]
FLAG = [("maybe", "boolean"), (5, "boolean"), (None, "boolean")]
AUTO_FLAG = [(value, "'auto'.*boolean") for value, _ in FLAG]


TIMES = [
    (0, "more than zero"),
    (-3, "more than zero"),
    ("90", "'90 minutes'"),
    ("soon", "'90 minutes'"),
    ("2 fortnights", "minutes or hours"),
    ([], "'90 minutes'"),
    (True, "str|'90 minutes'"),
    (float("nan"), "finite|'90 minutes'"),
    (float("inf"), "finite|'90 minutes'"),
]


def choice(*names: str) -> list[tuple[Any, str]]:
    return [(value, ".*".join(f"'{name}'" for name in names)) for value in ("fp17", 3, None, True)]


BAD: dict[str, list[tuple[Any, str]]] = {
    "run_dir": [*TEXT, (None, "string")],
    "duration": LENGTH,
    "batch_size": [*COUNT, (None, "integer")],
    "seed": [(-1, "greater than or equal to 0"), (True, "int"), (0.5, "integer"), ("x", "integer")],
    "drop_last": FLAG,
    "clip": [(0, "greater than 0"), (-0.5, "greater than 0"), (float("nan"), "greater than 0"), ("big", "number"), (True, "float|number")],
    "skip_non_finite": [(-1, "greater than or equal to 0"), (True, "int"), (0.5, "integer"), (None, "integer")],
    "debug": [
        ("slow", "'one batch', 'overfit'.*'10 steps'"),
        ("2 epochs", "'10 steps'"),
        ("0 steps", "'10 steps'"),
        (3, "debug mode"),
        (True, "str"),
    ],
    "time_limit": TIMES,
    "machine.device": [*TEXT, (None, "string")],
    "machine.workers": [(-1, "greater than or equal to 0.*'auto'"), ("many", "integer.*'auto'"), (1.5, "integer.*'auto'"), (True, "int.*'auto'")],
    "machine.micro_batch": COUNT,
    "machine.precision": choice("fp32", "tf32", "bf16", "fp16"),
    "machine.compile": [(value, "'step'.*'auto'.*boolean") for value, _ in FLAG],
    "machine.cuda_graph": FLAG,
    "machine.channels_last": FLAG,
    "machine.resident": AUTO_FLAG,
    "machine.deterministic": FLAG,
    "data.sampler": choice("shuffle", "sequential", "replacement"),
    "data.leaks": choice("warn", "refuse", "off"),
    "data.leaks_limit": [*TIMES, (None, "string.*number")],
    "evaluate.every": [case for case in LENGTH if case[0] is not None],
    "evaluate.batch_size": COUNT,
    "checkpoint.every": LENGTH,
    "checkpoint.keep_last": COUNT,
    "checkpoint.keep_best": COUNT,
    "checkpoint.keep_every": [case for case in LENGTH if case[0] is not None],
    "checkpoint.background": FLAG,
    "checkpoint.best": TEXT,
    "checkpoint.mode": choice("min", "max"),
    "log.every": LENGTH,
    "log.console": choice("auto", "rich", "plain", "quiet"),
    "log.tensorboard": AUTO_FLAG,
    "log.train_metrics": FLAG,
}
CASES = [(path, value, allowed) for path, values in BAD.items() for value, allowed in values]
SECTIONS = {"machine": MachineConfig, "data": DataConfig, "evaluate": EvaluateConfig, "checkpoint": CheckpointConfig, "log": LogConfig}


def nested(path: str, value: object) -> dict[str, Any]:
    section, _, name = path.rpartition(".")
    return {section: {name: value}} if section else {name: value}


def test_every_field_of_the_schema_has_values_that_it_refuses() -> None:
    assert {path for path, _ in flatten(to_dict(Config(**BASE)))} == set(BAD)


@pytest.mark.parametrize(("path", "value", "allowed"), CASES)
def test_a_bad_value_from_a_file_is_refused_with_line_path_value_and_what_is_allowed(path: str, value: object, allowed: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("# a comment\n" + yaml.safe_dump(nested(path, value)))
    with pytest.raises(ConfigError) as caught:
        load_config(Config, {**BASE}, file)
    where = f"bad.yaml:{2 + path.count('.')}: {path}: "
    message = str(caught.value)
    assert message.startswith(where)
    assert repr(value) in message
    assert re.search(allowed, message.removeprefix(where).replace(repr(value), "", 1))


@pytest.mark.parametrize(("path", "value", "allowed"), CASES)
def test_a_bad_value_from_python_is_refused_with_the_same_words(path: str, value: object, allowed: str) -> None:
    section, _, name = path.rpartition(".")
    with pytest.raises(ConfigError) as caught:
        SECTIONS[section](**{name: value}) if section else Config(**{**BASE, name: value})
    with pytest.raises(ConfigError) as loaded:
        load_config(Config, {**BASE}, nested(path, value))
    owner = SECTIONS[section].__name__ if section else "Config"
    assert str(caught.value) == str(loaded.value).replace(path, f"{owner}.{name}", 1)


@pytest.mark.parametrize("text", ["machine.precision=fp17", "batch_size=0", "duration=3", "time_limit=2 fortnights", "clip=-1", "seed.x=3"])
def test_a_bad_value_from_the_command_line_says_so(text: str) -> None:
    path = text.partition("=")[0].removesuffix(".x")
    with pytest.raises(ConfigError, match=f"^command line: {path}: "):
        load_config(Config, BASE, overrides=[text])


@pytest.mark.parametrize("value", ["cpu", None, 3, ["device"], True])
def test_a_section_that_is_no_section_is_refused_under_its_own_name(value: object, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump({"machine": value}))
    with pytest.raises(ConfigError, match=r"^bad\.yaml:\d: machine: got .*, but it is a section; its keys are machine.device, machine.workers"):
        load_config(Config, BASE, file)


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"batch_size": "64"}, "batch_size", 64),
        ({"batch_size": 64.0}, "batch_size", 64),
        ({"clip": 1}, "clip", 1.0),
        ({"clip": "1e-3"}, "clip", 1e-3),
        ({"time_limit": 90}, "time_limit", 90.0),
        ({"time_limit": "90 minutes"}, "time_limit", "90 minutes"),
        ({"seed": 0}, "seed", 0),
        ({"clip": None, "time_limit": None}, "clip", None),
    ],
)
def test_a_value_that_means_the_right_type_becomes_it(values: dict[str, Any], field: str, expected: object) -> None:
    found = getattr(Config(**BASE, **values), field)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "says"), [({"devise": "cpu"}, "devise"), ({"micro_batch": True}, "micro_batch"), ({"precision": "fp17"}, "precision")]
)
def test_a_section_given_as_a_dict_in_python_is_checked_as_strictly(value: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config(**BASE, machine=value)


def test_a_section_given_as_a_dict_in_python_becomes_the_section() -> None:
    assert Config(**BASE, machine={"device": "cpu"}).machine == MachineConfig(device="cpu")


def own(hint: Any, value: object) -> Any:
    """The value of a field with this type, in a user's own dataclass."""
    return make_dataclass("Own", [("x", hint)], bases=(Checked,))(value).x


@pytest.mark.parametrize(
    ("hint", "value", "allowed"),
    [
        (Annotated[float, Gt(0), Le(1)], 0, "must be greater than 0"),
        (Annotated[float, Gt(0), Le(1)], 2, "must be less than or equal to 1"),
        (Literal["SGD", "Adam"], "SDG", "must be 'SGD' or 'Adam'"),
        (tuple[int, ...], ["a"], "must be a valid integer"),
        (Literal[False, "some"], "all", "must be False or 'some'"),
        (Path, 3, "path"),
    ],
)
def test_a_users_own_field_is_refused_with_what_its_type_allows(hint: Any, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own(hint, value)
    message = str(caught.value)
    assert message.startswith("Own.x: ")
    assert repr(value) in message
    assert allowed in message


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (Annotated[float, Gt(0), Le(1)], 1, 1.0),
        (Literal["SGD", "Adam"], "Adam", "Adam"),
        (Literal[False, "some"], False, False),
        (Literal[False, "some"], "some", "some"),
        (tuple[int, ...], [3], (3,)),
        (Path, "data", Path("data")),
        (Any, True, True),
        (list[bool], [True], [True]),
        (dict[str, float] | None, None, None),
        (Callable, len, len),
    ],
)
def test_a_users_own_field_takes_what_its_type_allows(hint: Any, value: object, expected: object) -> None:
    assert own(hint, value) == expected


@pytest.mark.parametrize("section", [Config, *SECTIONS.values()])
def test_every_section_is_frozen_and_keyword_only(section: type) -> None:
    made = Config(**BASE) if section is Config else section()
    for name in hints(section):
        with pytest.raises(AttributeError):
            setattr(made, name, getattr(made, name))
    with pytest.raises(TypeError):
        section("cpu")
