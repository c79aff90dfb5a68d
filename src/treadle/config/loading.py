"""Layers of a config: defaults < files < ``key=value``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from treadle.config.asked import DEFAULT, of_layer, remember
from treadle.config.build import Leaf, Tree, TypedSection, build, flatten, merged, to_dict
from treadle.config.yaml_file import read_value, read_yaml, yaml_text
from treadle.core.errors import ConfigError

T = TypeVar("T")


def load_config(cls: type[T], *sources: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), defaults: T | None = None) -> T:
    """Build a config from layers; a later layer wins.

    Args:
        cls: the dataclass to build: `treadle.Config` or a user's own.
        sources: paths of YAML files, or nested dicts.
        overrides: texts such as ``"machine.device=cpu"``, as typed on a command line.
        defaults: an instance to start from, in place of the class's own defaults.

    Raises:
        ConfigError: an unknown key (with the nearest name), a missing one, a wrong type or range, or a file that is
            no YAML; the message has the path and the file's line.

    Example:
        >>> from treadle import Config
        >>> load_config(Config, {"run_dir": "runs/a", "duration": "1 epoch"}, overrides=["seed=7"]).seed
        7
    """
    tree: Tree = {} if defaults is None else to_dict(defaults)
    origins = dict.fromkeys((path for path, _ in flatten(tree)), DEFAULT)
    layers = [_from_mapping(source) if isinstance(source, Mapping) else read_yaml(Path(source)) for source in sources]
    for layer in [*layers, *map(_override, overrides)]:
        tree, origins = merged(tree, layer), origins | of_layer(layer)
    config = build(cls, tree)
    remember(config, origins)
    return config


def config_text(config: Any) -> str:
    """The complete resolved tree as YAML; `load_config` of a file with it gives an equal object."""
    return yaml_text(to_dict(config))


def _override(text: str) -> Tree:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"{text!r} is not an override; write key=value, such as batch_size=64 or machine.device=cpu")
    *sections, key = path.strip().split(".")
    found = _from_line(read_value(value), value)
    if isinstance(found, dict):
        found = TypedSection(found)
        found.text = value
    tree: Tree = {key: found}
    for section in reversed(sections):
        tree = {section: tree}
    return tree


def _from_line(value: Any, text: str | None) -> Any:
    if isinstance(value, dict):
        return {str(key): _from_line(item, None) for key, item in value.items()}
    return Leaf(value, "command line: ", text)


def _from_mapping(tree: Mapping[str, Any]) -> Tree:
    """A user's nested dict; a dataclass in it stands for its values."""
    sections = {key: to_dict(value) for key, value in tree.items() if dataclasses.is_dataclass(value) and not isinstance(value, type)}
    return {**tree, **sections}
