"""YAML: lines for messages, no duplicate keys, and 1e-3 is a number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from treadle.config.build import Leaf, Tree
from treadle.core.errors import ConfigError

# YAML 1.1 wants a dot and a sign in a float; people write 1e-3.
_FLOAT = ("tag:yaml.org,2002:float", re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def read_yaml(path: Path) -> Tree:
    """The tree of a file, each leaf with its line.

    Raises:
        ConfigError: the file cannot be read, is no YAML, gives a key twice, or holds something else than keys and values.
    """
    import yaml

    try:
        return _tree(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise ConfigError(f"cannot read the config file {str(path)!r}: {error.strerror}") from None
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        what = "" if path.suffix in (".yaml", ".yml", ".json") else "; a config file is YAML"
        raise ConfigError(f"{path.name}{line}: {error.problem or error}{what}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name}: {error}") from None


def read_value(text: str) -> Any:
    """A value as YAML reads it; the text itself where it is no YAML."""
    import yaml

    try:
        return yaml.load(text, _loader()) if text else ""
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def yaml_text(tree: Tree) -> str:
    """A tree of plain values as YAML that `read_yaml` turns into it again."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes the texts that the loader would take for numbers, and escapes what it would take for the end of a line."""

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')

    Dumper.add_implicit_resolver(*_FLOAT)
    Dumper.add_representer(str, text)
    return str(yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _tree(text: str, file: str) -> Tree:
    loader = _loader()(text)
    node = loader.get_single_node()
    tree = {} if node is None else _node(loader, node, file)
    if isinstance(tree, Leaf) and tree.value is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: a config file holds keys and values, got {tree.value!r}")
    return tree


def _node(loader: Any, node: Any, file: str) -> Any:
    import yaml

    origin = f"{file}:{node.start_mark.line + 1}: "
    if not isinstance(node, yaml.MappingNode):
        try:
            return Leaf(loader.construct_object(node, deep=True), origin)
        except ValueError as error:
            raise ConfigError(f"{origin}{error}") from None
    tree: Tree = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        if key in tree:
            raise ConfigError(f"{file}:{key_node.start_mark.line + 1}: the key {key!r} is given twice")
        tree[key] = _node(loader, value_node, file)
    return tree


def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """With our floats."""

    Loader.add_implicit_resolver(*_FLOAT)
    return Loader
