"""Write docs/config.md from the schema: every key, what it may be, its default and what it means: `python docs/config_page.py`.

A test holds the page to the schema.
"""

import dataclasses
import inspect
from pathlib import Path

from treadle.config import schema
from treadle.config.describe import describe

HEAD = """# Every key of the config

In Python: `treadle.Config(run_dir=..., duration=..., machine=treadle.MachineConfig(...))`. In YAML: the same names, nested. On a command line:
`key=value`, with dots, such as `machine.device=cpu`; `null` is Python's `None`. An own config inherits from `treadle.Config`, or holds one in a
field; its own fields come beside these, and `treadle train FILE --help` lists them all. What the words mean: [Config](concepts/1-config.md).

(This page is written from `src/treadle/config/schema.py` by `python docs/config_page.py`.)
"""


def page() -> str:
    """The whole page."""
    sections = {"": schema.Config}
    sections |= {
        f"{field.name}.": kind
        for field in dataclasses.fields(schema.Config)
        if dataclasses.is_dataclass(kind := getattr(schema, str(field.type), None))
    }
    keys = list(describe(schema.Config))
    parts = [HEAD]
    for prefix, kind in sections.items():
        parts += [
            f"\n## `treadle.{kind.__name__}`\n",
            (inspect.getdoc(kind) or "").partition("\n")[0],
            "",
            "| Key | May be | Default | |",
            "|---|---|---|---|",
        ]
        parts += [row(key.path, key.allowed, key.default, key.text) for key in keys if key.path.rpartition(".")[0] == prefix.rstrip(".")]
    return "\n".join(parts)


def row(path: str, allowed: str, default: str | None, text: str) -> str:
    """One key."""
    return f"| `{path}` | {allowed.replace('|', chr(92) + '|')} | {'required' if default is None else f'`{default}`'} | {text} |"


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(page() + "\n", encoding="utf-8")
