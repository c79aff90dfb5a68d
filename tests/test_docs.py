"""What the pages say is so: code blocks run, the tree is the tree, links lead somewhere, commands exist."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import treadle
from pages import ROOT, blocks, run_page

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)]


LONG = ("tour.md", "compare-runs.md")
"""Pages of which nearly every block starts programs; the README's own blocks start the same ones."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page.name in LONG)) for page in PAGES[1:] if blocks(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules, path = set(sys.modules), list(sys.path)
    torch.manual_seed(0)
    try:
        run_page(page)
    finally:  # the page's own files may have been imported
        for name in [name for name, module in sys.modules.items() if name not in modules and is_here(module)]:
            del sys.modules[name]
        sys.path[:] = path


def is_here(module: object) -> bool:
    return (getattr(module, "__file__", None) or "").startswith(str(Path.cwd()))


def test_the_readme_runs_from_top_to_bottom() -> None:
    Path("recipes").symlink_to(ROOT / "recipes")
    torch.manual_seed(0)
    names = run_page(ROOT / "README.md")
    assert names["run"].result.status == "finished"  # type: ignore[attr-defined]
    assert {path.name for path in Path("results").iterdir()} == {"one", "two", "three", "short"}
    assert "train/grad_norm" in Path("results/two/metrics.jsonl").read_text()
    assert {path.name for path in Path("my_project/results").iterdir() if path.is_dir()} == {"001", "002"}
    assert Path("my_project/results/001/plots/curves.png").exists() and Path("my_project/results/compare-001-002.png").exists()


def test_the_tree_in_the_readme_is_the_tree() -> None:
    tree = "\n".join(runpy.run_path(str(ROOT / "docs" / "tree.py"))["lines"]())
    assert f"```\n{tree}\n```" in (ROOT / "README.md").read_text(encoding="utf-8"), "run: python docs/tree.py"


def test_the_page_of_config_keys_is_the_schema() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "config_page.py"))["page"]()
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == page + "\n", "run: python docs/config_page.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_guarantee_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"tests/[\w/]*(?:\.py)?", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_names_the_commands_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_every_decision_is_in_the_table_of_decisions() -> None:
    folder = ROOT / "docs" / "decisions"
    table = (folder / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in sorted(folder.glob("0*.md")) if f"({path.name})" not in table] == []


def test_the_page_of_commands_is_the_command_line() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "command_page.py"))["page"]()
    assert (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8") == page + "\n", "run: python docs/command_page.py"


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    names = [f"treadle.{name}" for name in treadle.__all__ if not hasattr(getattr(treadle, name), "__path__")]
    for module in (treadle.data, treadle.errors, treadle.metrics, treadle.schedules):
        names += [f"{module.__name__}.{name}" for name in module.__all__ if name not in treadle.__all__]
    assert [name for name in names if not re.search(rf"{re.escape(name)}\b", pages)] == []


def test_every_error_has_its_section() -> None:
    sections = re.findall(r"^#+ (\w+)$", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in treadle.errors.__all__ if name not in sections] == []


def test_the_picture_of_schedules_shows_all_of_them(tmp_path: Path) -> None:
    page = runpy.run_path(str(ROOT / "docs" / "schedules_picture.py"))
    page["draw"](tmp_path / "schedules.svg")
    shown = set(re.findall(r"\w+(?=\()", " ".join(page["SHOWN"])))
    assert shown == set(treadle.schedules.__all__) - {"Schedule", "from_torch", "plot"} | {"then"}
    assert (tmp_path / "schedules.svg").stat().st_size > 10_000
    assert page["PICTURE"].exists()
