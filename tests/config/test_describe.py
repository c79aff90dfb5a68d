"""Describing a config: every key with what it may be, its default and its meaning."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Lt, MultipleOf

import treadle
from treadle.config.build import flatten, to_dict
from treadle.config.describe import Key, allowed, describe
from treadle.config.schema import Length, Time


def keys(cls, defaults=None):
    return {key.path: key for key in describe(cls, defaults)}


def test_every_key_of_a_config_is_there_once_and_has_a_meaning():
    found = list(describe(treadle.Config))
    whole = to_dict(treadle.Config(run_dir="a", duration="1 epoch"))
    assert sorted(key.path for key in found) == sorted(path for path, _ in flatten(whole))
    assert [key.path for key in found if len(key.text) < 15] == []


def test_defaults_are_as_yaml_writes_them_and_absent_where_a_key_must_be_given():
    found = keys(treadle.Config)
    assert [path for path, key in found.items() if key.default is None] == ["run_dir", "duration"]
    shown = {path: found[path].default for path in ("batch_size", "clip", "drop_last", "machine.deterministic", "checkpoint.every")}
    assert shown == {"batch_size": "32", "clip": "null", "drop_last": "false", "machine.deterministic": "true", "checkpoint.every": "1 epoch"}
    given = {path: key.default for path, key in found.items() if key.default is not None}
    config = treadle.load_config(treadle.Config, overrides=["run_dir=a", "duration=1 epoch", *(f"{path}={text}" for path, text in given.items())])
    assert config == treadle.Config(run_dir="a", duration="1 epoch")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "integer"),
        (float, "number"),
        (bool, "true | false"),
        (str, "text"),
        (Annotated[int, Gt(0)], "integer > 0"),
        (Annotated[float, Ge(0), Lt(1)], "number >= 0, < 1"),
        (Annotated[int, Ge(0), Lt(2**64)], "integer >= 0, < 2**64"),
        (Annotated[int, MultipleOf(8)], "integer a multiple of 8"),
        (Annotated[int, Gt(0)] | None, "integer > 0 | null"),
        (Literal["min", "max"], "min | max"),
        (Literal["auto"] | bool, "auto | true | false"),
        (Annotated[int, Ge(0)] | Literal["auto"], "integer >= 0 | auto"),
        (Length, "length"),
        (Time | None, "time | null"),
        (list[str], "[text, ...]"),
        (Path, "Path"),
    ],
)
def test_what_an_annotation_allows_in_a_few_words(hint, words):
    assert allowed(hint) == words


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    width: Annotated[int, Gt(0)] = 8
    """How wide
    it is."""
    depth: int = 2


@dataclass(frozen=True, kw_only=True)
class Own(treadle.Config):
    """It inherits, narrows and adds."""

    run_dir: str = "results/{n}"
    duration: str = "3 epochs"
    """Longer than most."""
    lr: Annotated[float, Gt(0)] = 0.1
    """How fast it learns."""
    model: ModelConfig = field(default_factory=ModelConfig)
    other: ModelConfig | None = None


@dataclass(frozen=True, kw_only=True)
class Holds:
    run: treadle.Config
    lr: float


def test_own_fields_stand_beside_the_inherited_ones_and_sections_come_after():
    found = keys(Own)
    assert found["lr"] == Key("lr", "number > 0", "0.1", "How fast it learns.")
    assert found["model.width"] == Key("model.width", "integer > 0", "8", "How wide it is.")
    assert found["model.depth"].text == "" and found["other"].default == "null"
    assert found["machine.device"] == keys(treadle.Config)["machine.device"]
    assert list(found).index("lr") < list(found).index("machine.device") < list(found).index("model.width")


def test_a_field_that_is_given_another_default_keeps_what_it_allows_and_means():
    found, original = keys(Own), keys(treadle.Config)
    assert (found["duration"].allowed, found["duration"].default, found["duration"].text) == ("length", "3 epochs", "Longer than most.")
    assert (found["run_dir"].default, found["run_dir"].text) == ("results/{n}", original["run_dir"].text)


def test_an_instance_gives_the_defaults_in_place_of_the_class():
    found = keys(Own, Own(seed=7, clip=0.5, model=ModelConfig(width=9), other=ModelConfig(depth=5)))
    shown = {path: found[path].default for path in ("seed", "clip", "model.width", "model.depth", "other.depth", "machine.workers")}
    assert shown == {"seed": "7", "clip": "0.5", "model.width": "9", "model.depth": "2", "other.depth": "5", "machine.workers": "0"}


def test_a_config_that_is_held_in_a_field_is_a_section():
    found = keys(Holds)
    assert found["lr"] == Key("lr", "number", None, "")
    assert {path for path in found if path != "lr"} == {f"run.{path}" for path in keys(treadle.Config)}
    assert found["run.run_dir"].default is None and found["run.seed"].default == "0"


def test_a_class_that_was_typed_at_a_prompt_still_lists_its_keys(monkeypatch):
    names = {"__name__": "a_prompt"}
    monkeypatch.setitem(sys.modules, "a_prompt", type(sys)("a_prompt"))
    exec(
        "from dataclasses import dataclass\nimport treadle\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Typed(treadle.Config):\n    lr: float = 0.1\n    '''Not to be found.'''\n",
        names,
    )
    found = keys(names["Typed"])
    assert found["lr"] == Key("lr", "number", "0.1", "")
    assert found["seed"] == keys(treadle.Config)["seed"]
