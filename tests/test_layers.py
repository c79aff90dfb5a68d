"""Imports point down: core -> config -> system -> parts (never each other) -> failure, profile, explain -> proof -> run -> trainer -> train, cli."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "treadle"
PARTS = ("data", "step", "metrics", "log", "checkpoint", "provenance")
# What each room may import, beside itself. `policies` are handlers: they know the core and nothing else.
BELOW: dict[str, tuple[str, ...]] = {"core": (), "config": ("core",), "system": ("core", "config"), "policies": ("core",)}
BELOW |= dict.fromkeys(PARTS, ("core", "config", "system"))
BELOW |= dict.fromkeys(("failure", "profile", "explain"), ("core", "config", "system", *PARTS))
BELOW["proof"] = (*BELOW["profile"], "profile", "explain")
STOREYS = (
    "evaluation", "readers", "validation", "prediction", "preflight", "first_batches",
    "rows", "home", "loop", "debug", "run", "form", "trainer", "finder", "training",
)  # fmt: skip
for number, storey in enumerate(STOREYS):
    BELOW[storey] = ("core", "config", "system", *PARTS, "failure", "profile", "explain", "proof", *STOREYS[:number])
BELOW |= {"errors": ("core",), "schedules": ("core", "log")}  # log draws them
BELOW["finder"] = (*BELOW["finder"], "policies")
BELOW |= {"scaffold": ("core",), "cli": (*BELOW["training"], "training", "scaffold")}
BELOW["__main__"] = ("cli",)
BELOW["__init__"] = (*BELOW["cli"], "cli", "policies", "errors", "schedules")
STANDARD_ONLY = {"core": (), "config": ("pydantic", "annotated_types", "yaml")}


def files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if "project" not in path.relative_to(SOURCE).parts)


def room(path: Path) -> str:
    inside = path.relative_to(SOURCE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> list[str]:
    """Every module that a file imports, also inside functions and under TYPE_CHECKING."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [name.name for name in node.names]
            found += [f"{node.module}.{name}" for name in names] if node.module == "treadle" else [str(node.module)]
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    for module in imports(path):
        package, _, rest = module.partition(".")
        if package == "treadle":
            there = rest.partition(".")[0] or "__init__"
            there = there if there in BELOW else "__init__"
            assert there == here or there in BELOW[here], f"{here} imports {module}"


@pytest.mark.parametrize("path", [p for p in files() if room(p) in STANDARD_ONLY], ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_lowest_rooms_know_no_torch(path: Path) -> None:
    import sys

    allowed = {*sys.stdlib_module_names, "treadle", *STANDARD_ONLY[room(path)]}
    assert {module.partition(".")[0] for module in imports(path)} <= allowed


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its docstring left out."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 1


def test_recipes_use_public_names_only() -> None:
    import treadle

    for path in [*(SOURCE.parents[1] / "recipes").glob("*.py"), *(SOURCE / "scaffold" / "project").rglob("*.py")]:
        for module in imports(path):
            if module.startswith("treadle."):
                assert module.split(".")[1] in treadle.__all__, f"{path.name} imports {module}"


def test_files_and_functions_stay_short() -> None:
    long_files = [str(path) for path in files() if path.read_text(encoding="utf-8").count("\n") > 400]
    long_functions = [
        f"{path.name}:{node.name}"
        for path in files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and length(node) > 60
    ]
    assert (long_files, long_functions) == ([], [])
