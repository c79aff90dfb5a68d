"""Write docs/config.md from the schema: every key, what it may be, its default and what it means: `python docs/config_page.py`.

A test holds the page to the schema.
"""

import ast
import inspect
from pathlib import Path

from treadle.config import schema

HEAD = """# Every key of the config

Written from `src/treadle/config/schema.py` by `python docs/config_page.py`. In Python: `treadle.Config(run_dir=..., duration=..., machine=
treadle.MachineConfig(...))`. In YAML: the same names, nested. On a command line: `key=value`, with dots, such as `machine.device=cpu`. An own config
inherits from `treadle.Config`, or holds one in a field; its own fields come beside these.
"""


def page() -> str:
    """The whole page."""
    classes = {node.name: node for node in ast.parse(inspect.getsource(schema)).body if isinstance(node, ast.ClassDef)}
    parts = [HEAD, *table("Config", classes, "")]
    for field in classes["Config"].body:
        if isinstance(field, ast.AnnAssign) and ast.unparse(field.annotation) in classes:
            parts += table(ast.unparse(field.annotation), classes, f"{ast.unparse(field.target)}.")
    return "\n".join(parts)


def table(name: str, classes: dict[str, ast.ClassDef], prefix: str) -> list[str]:
    """One section."""
    rows = [
        f"\n## `treadle.{name}`\n",
        f"{ast.get_docstring(classes[name]) or ''}".partition("\n")[0],
        "",
        "| Key | May be | Default | |",
        "|---|---|---|---|",
    ]
    body = classes[name].body
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            default = "required" if field.value is None else f"`{ast.unparse(field.value)}`"
            kind = ast.unparse(field.annotation).replace("|", "\\|")
            rows.append(f"| `{prefix}{ast.unparse(field.target)}` | `{kind}` | {default} | {after.value.value} |")
    return rows


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(page() + "\n", encoding="utf-8")
