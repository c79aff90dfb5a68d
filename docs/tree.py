"""Write the tree of the project into README.md, each file with the first sentence of its docstring: `python docs/tree.py`.

A test holds README.md to it.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHOWN = {
    "src/treadle": "the library: engineering",
    "recipes": "research: copy one and edit",
    "packages/treadle-mnist/src/treadle_mnist": "the images of the demo, a distribution of its own",
}
OTHERS = {
    "tests/guarantees": "the promises, proved: killed, repeated, resumed, compared bit by bit",
    "tests": "the behaviour of each room, bad input, layers, the public names, this README",
    "benchmarks": "what it costs, measured",
    "docs": "the site: tour, concepts 1-8, how-to pages, reference, errors, questions, guarantees, decisions",
    "Makefile": "demo, test, bench, lint, docs, check",
    "constraints.txt": "the exact versions that make installs",
}
WIDTH = 30


def first_line(path: Path) -> str:
    """The first sentence of a module's docstring."""
    line = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    sentence, dot, _ = line.partition(". ")
    return line if sentence.isdigit() or not dot else f"{sentence}."


def lines() -> list[str]:
    """The tree, a line a file."""
    found: list[str] = []
    for top, text in SHOWN.items():
        found.append(f"{top + '/':{WIDTH - 1}} {text}")
        folder = ROOT / top
        found += [row(path, 1) for path in sorted(folder.glob("*.py")) if path.name != "__init__.py" or top != "src/treadle"]
        for room in sorted((p for p in folder.iterdir() if (p / "__init__.py").exists()), key=order):
            found.append(f"{'  ' + room.name + '/':{WIDTH}}{first_line(room / '__init__.py')}")
            found += [row(path, 2) for path in sorted(room.glob("*.py")) if path.name != "__init__.py"]
    return [*found, *(f"{name:{WIDTH}}{text}" for name, text in OTHERS.items())]


def row(path: Path, depth: int) -> str:
    """One file."""
    return f"{'  ' * depth + path.name:{WIDTH}}{first_line(path)}"


def order(room: Path) -> tuple[str, str]:
    """Rooms in the order of the flow: those whose docstring begins with a number, by it."""
    text = first_line(room / "__init__.py")
    return (text if text[:1].isdigit() else "0" if room.name == "core" else "9", room.name)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    before, _, after = readme.read_text(encoding="utf-8").partition("## The tree\n\n```\n")
    text = "\n".join(lines())
    readme.write_text(f"{before}## The tree\n\n```\n{text}\n```{after.partition('```')[2]}", encoding="utf-8")
