"""From layers to one config object: defaults < file < ``key=value``.

A config tree is nested dataclasses. Layers are nested dicts; each leaf remembers where it came from, so that an
error can say ``bad.yaml:4``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from treadle.config.check import convert, hints
from treadle.core.errors import ConfigError, did_you_mean

T = TypeVar("T")
Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A value from a layer, and where it came from; `text` where it was typed on a command line."""

    value: Any
    origin: str = ""
    text: str | None = None


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
    tree: Tree = {}
    if defaults is not None:
        _merge(tree, _leaves(to_dict(defaults), ""))
    for source in sources:
        _merge(tree, _leaves(source, "") if isinstance(source, Mapping) else _read_yaml(Path(source)))
    for text in overrides:
        _merge(tree, _override(text))
    return _build(cls, tree, "")


def to_dict(config: Any) -> Tree:
    """A config as nested dicts of plain values: what `save_config` writes."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return to_dict(value)
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, Path):
            return str(value)
        return getattr(value, "value", value) if type(value).__module__ not in ("builtins",) else value

    tree = {}
    for name, hint in hints(type(config)).items():
        value = getattr(config, name)
        tree[name] = plain(value)
        if dataclasses.is_dataclass(value) and len(_dataclasses(hint)) > 1:
            tree[name] = {"type": type(value).__name__, **tree[name]}
    return tree


def flatten(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts as (dotted path, value)."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def save_config(config: Any, path: Path) -> None:
    """Write the complete resolved tree as YAML; `load_config` of the file gives an equal object."""
    import yaml

    path.write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _build(cls: type[T], tree: Tree, path: str, elsewhere: Sequence[str] = ()) -> T:
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    elsewhere = elsewhere or _paths(cls)
    for key, value in tree.items():
        if key not in fields:
            raise ConfigError(f"{_where(value)}unknown key '{path}{key}'{_nearest(key, list(fields), elsewhere)}")
    values: Tree = {}
    for name, hint in hints(cls).items():
        if name in tree:
            values[name] = _field(hint, tree[name], _default(fields[name]), f"{path}{name}", elsewhere)
        elif _default(fields[name]) is dataclasses.MISSING:
            raise ConfigError(f"'{path}{name}' is missing; give it in the file or as {path}{name}=...")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path.rstrip('.') or cls.__name__}: {error}") from error


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _field(hint: Any, given: Any, default: Any, path: str, elsewhere: Sequence[str]) -> Any:
    sections = _dataclasses(hint)
    if isinstance(given, dict) and sections:
        section = _chosen(sections, given, default, path)
        # A section goes on from the values that its field has by default, which need not be its class's own.
        tree: Tree = _leaves(to_dict(default), "") if type(default) is section else {}
        _merge(tree, given)
        return _build(section, tree, f"{path}.", elsewhere)
    value = _plain(given)
    try:
        return convert(hint, value, path)
    except ConfigError as error:
        # On a command line, 'run_dir=123' means the text where the field is a text.
        if isinstance(given, _Leaf) and given.text is not None and given.text != value:
            try:
                return convert(hint, given.text, path)
            except ConfigError:
                pass
        raise ConfigError(f"{_where(given)}{error}") from None


def _nearest(key: str, here: list[str], everywhere: Sequence[str]) -> str:
    """The nearest name in this section, else the nearest in the whole tree with its path."""
    if "did you mean" in (hint := did_you_mean(key, here)):
        return hint
    by_name = {path.rpartition(".")[2]: path for path in reversed(everywhere)}
    other = difflib.get_close_matches(key, by_name, n=1)
    return f"; did you mean '{by_name[other[0]]}'?" if other else hint


def _paths(cls: Any, path: str = "") -> list[str]:
    """Every key of a config tree, the shallow ones first."""
    found = [f"{path}{name}" for name in hints(cls)]
    for name, hint in hints(cls).items():
        for section in _dataclasses(hint):
            found += _paths(section, f"{path}{name}.")
    return found


def _chosen(sections: list[type], given: Tree, default: Any, path: str) -> type:
    if len(sections) == 1:
        return sections[0]
    names = {section.__name__: section for section in sections}
    leaf = given.pop("type", None)
    if leaf is None and type(default) in sections:
        return type(default)
    if leaf is None or _plain(leaf) not in names:
        got = "no type" if leaf is None else repr(_plain(leaf))
        raise ConfigError(f"{_where(leaf)}{path}: got {got}; say '{path}.type', one of {', '.join(names)}")
    return names[_plain(leaf)]


def _dataclasses(hint: Any) -> list[type]:
    """The dataclasses that an annotation allows."""
    if get_origin(hint) is Annotated:
        return _dataclasses(get_args(hint)[0])
    parts = get_args(hint) if not isinstance(hint, type) else (hint,)
    return [part for part in parts if isinstance(part, type) and part is not NoneType and dataclasses.is_dataclass(part)]


def _override(text: str) -> Tree:
    import yaml

    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"{text!r} is not an override; write key=value, such as batch_size=64 or machine.device=cpu")
    try:
        parsed = yaml.load(value, _loader()) if value else ""
    except yaml.YAMLError:
        parsed = value
    tree: Any = _leaves(parsed, "command line: ") if isinstance(parsed, dict) else _Leaf(parsed, "command line: ", value)
    for key in reversed(path.strip().split(".")):
        tree = {key: tree}
    return tree  # type: ignore[no-any-return]


def _leaves(value: Any, origin: str) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _leaves(v, origin) for k, v in value.items()}
    return _Leaf(value, origin)


def _merge(tree: Tree, layer: Tree) -> None:
    for key, value in layer.items():
        here = tree.get(key)
        if isinstance(here, dict) and isinstance(value, dict) and _same_type(here, value):
            _merge(here, value)
        else:
            tree[key] = value


def _same_type(here: Tree, layer: Tree) -> bool:
    """Whether a layer goes on with a section: one that names another class starts it anew, without the old one's values."""
    return "type" not in layer or "type" not in here or _plain(layer["type"]) == _plain(here["type"])


def _plain(value: Any) -> Any:
    if isinstance(value, _Leaf):
        return value.value
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _where(value: Any) -> str:
    if isinstance(value, dict):
        return next((where for v in value.values() if (where := _where(v))), "")
    return value.origin if isinstance(value, _Leaf) else ""


# --- YAML: lines for messages, no duplicate keys, 1e-3 is a number ---


def _read_yaml(path: Path) -> Tree:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the config file {str(path)!r}: {error.strerror}") from None
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        tree = {} if node is None else _node(loader, node, path.name)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path.name}{line}: {error.problem or error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path.name}: a config file holds keys and values, got {_plain(tree)!r}")
    return tree


def _node(loader: Any, node: Any, file: str) -> Any:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return _Leaf(loader.construct_object(node, deep=True), f"{file}:{node.start_mark.line + 1}: ")
    tree: Tree = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        if key in tree:
            raise ConfigError(f"{file}:{key_node.start_mark.line + 1}: the key {key!r} is given twice")
        tree[key] = _node(loader, value_node, file)
    return tree


def _loader() -> Any:
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.1's floats need a dot and a sign; people write 1e-3."""

    number = re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader
