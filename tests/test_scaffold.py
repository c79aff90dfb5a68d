"""`treadle new`: a project that runs at once, in which nothing is lost and nothing is written over."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

import treadle
from treadle.cli.main import main
from treadle.scaffold import create

FILES = """
.gitignore README.md data/README.md data/penguins.csv models/README.md pytest.ini requirements.txt results/README.md sandbox/explore.ipynb
src/config.py src/dataset.py src/main.py src/model.py src/train.py tests/test_project.py
"""
SHORT = "duration=2 epochs"
STOP_AFTER_AN_EPOCH = f"""
import os, runpy, signal, sys
sys.argv, sys.path[0] = ["src/main.py", "{SHORT}"], "src"
import treadle
write = treadle.Plot.write
def write_and_stop(plot, row):
    write(plot, row)
    if "valid/loss" in row:
        os.kill(os.getpid(), signal.SIGINT)
treadle.Plot.write = write_and_stop
runpy.run_path(os.path.abspath("src/main.py"), run_name="__main__")
"""


def python(folder, *words, code=0):
    """Run Python in a folder, as a user would; what it says."""
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stderr == ""
    return done.stdout


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which one run was made: stopped after an epoch, and gone on with by the same command."""
    folder = tmp_path_factory.mktemp("work") / "penguins"
    create(folder)
    said = [python(folder, "-c", STOP_AFTER_AN_EPOCH, code=128 + signal.SIGINT)]
    record = json.loads((folder / "results" / "001" / "run.json").read_text())
    said.append(python(folder, "src/main.py", SHORT))
    return folder, said, record


def test_new_writes_the_files_of_a_project_and_says_what_to_do(capsys):
    assert main(["new", "somewhere/my project"]) == 0
    out, err = capsys.readouterr()
    made = {str(path.relative_to("somewhere/my project")) for path in Path("somewhere/my project").rglob("*") if path.is_file()}
    assert made == set(FILES.split())
    assert made <= set(out.split()) and err == ""
    assert re.search(r"cd 'somewhere/my project'\n  \S*python\S* src/main.py ", out)
    assert Path("somewhere/my project/README.md").read_text().startswith("# my project\n")


def test_an_empty_folder_becomes_a_project_and_any_other_is_refused_and_left_alone(capsys):
    Path("empty").mkdir()
    assert main(["new", "empty"]) == 0
    before = snapshot(Path())
    Path("file").write_text("mine")
    for name in ("empty", "file", "file/below"):
        assert main(["new", name]) == 1
        assert re.search(r"is there already; give the name of a new folder|cannot write", capsys.readouterr().err)
    assert snapshot(Path()) == before | {Path("file"): b"mine"}


def test_requirements_name_a_treadle_that_pip_can_install(project):
    folder, _, _ = project
    lines = [line for line in (folder / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    editable = re.fullmatch(r"-e (.*)\[plot,tensorboard\]", lines[0])
    requirement = Requirement(f"treadle[plot,tensorboard] @ file://{editable[1]}" if editable else lines[0])
    assert (requirement.name, requirement.extras) == ("treadle", {"plot", "tensorboard"})
    if requirement.url:
        assert Path(unquote(requirement.url.removeprefix("file://")), "pyproject.toml").is_file() or requirement.url.startswith("git+")
    else:
        assert requirement.specifier.contains(treadle.__version__)
    assert "pytest" in lines[1:]


def test_no_other_file_names_a_place_on_this_machine_or_a_name_to_fill_in(project):
    folder, _, _ = project
    places = [str(folder), str(Path(treadle.__file__).parents[1]), str(Path.home()), sys.prefix]
    for name in FILES.split():
        text = (folder / name).read_text()
        assert name == "requirements.txt" or [place for place in places if place in text and place != "/"] == [], name
        assert not re.search(r"\b(PROJECT|TREADLE)\b|(?<![\w.:/])/(home|root|usr|tmp|work)/", text) or name == "requirements.txt", name


def test_a_run_that_was_stopped_goes_on_in_its_folder_by_the_same_command_and_ends_with_a_score(project):
    folder, (stopped, gone_on), record = project
    assert (record["status"], record["reason"], record["epochs"]) == ("interrupted", "SIGINT", 1)
    assert "interrupted: SIGINT at epoch 1" in stopped and "start the same command again to go on" in stopped and "test set" not in stopped
    assert f"results/001; going on after step {record['steps']}" in gone_on
    assert float(re.search(r"test set, weights of the best epoch: accuracy (0\.\d+)", gone_on)[1]) > 0.5
    assert json.loads((folder / "results/001/run.json").read_text())["status"] == "finished"
    assert (folder / "results/001/plots/curves.png").is_file() and (folder / "models/001.safetensors").is_file()


def test_one_changed_line_is_another_run_beside_the_first_which_is_left_alone(project):
    folder, _, _ = project
    config, before = folder / "src" / "config.py", snapshot(folder / "results" / "001")
    whole = config.read_text()
    assert whole.count("= 5e-3\n") == 1
    config.write_text(whole.replace("= 5e-3\n", "= 2e-2\n"))
    python(folder, "src/main.py", SHORT, "--quiet")
    config.write_text(whole)
    assert "\nlr: 0.02\n" in (folder / "results/002/config.yaml").read_text() and "\nlr: 0.005\n" in (folder / "results/001/config.yaml").read_text()
    assert snapshot(folder / "results" / "001") == before
    assert {path.name for path in (folder / "models").glob("*.safetensors")} == {"001.safetensors", "002.safetensors"}


def test_the_weights_of_a_run_are_evaluated_and_the_projects_own_tests_pass(project):
    folder, _, _ = project
    both = "import sys, pytest; from treadle.cli.main import main; "
    both += "sys.exit(main(['evaluate', 'results/001', '--json']) or pytest.main(['-q']))"
    scores, *rest = python(folder, "-c", both).splitlines()
    logged = [row["valid/loss"] for row in treadle.read_journal(folder / "results/001") if "valid/loss" in row]
    assert json.loads(scores)["loss"] == pytest.approx(min(logged)) and json.loads(scores)["accuracy"] > 0.5
    assert rest[-1].startswith("3 passed")


def test_its_notebook_runs_from_the_top_to_the_bottom(project, monkeypatch, tmp_path):
    folder, _, _ = project
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(folder / "sandbox" / "explore.ipynb", as_version=4)
    NotebookClient(book, timeout=100, resources={"metadata": {"path": str(folder / "sandbox")}}).execute()
    outputs = {cell.id: cell.outputs for cell in book.cells if cell.cell_type == "code"}
    assert [output for cell in outputs.values() for output in cell if output.get("name") == "stderr"] == []
    images = {cell: sum("image/png" in output.get("data", {}) for output in outputs[cell]) for cell in ("scatter", "run", "confusion")}
    assert images == {"scatter": 1, "run": 1, "confusion": 1}
    assert "'finished'" in outputs["metrics"][0].data["text/plain"]
    assert {path.name for path in (folder / "results").iterdir()} >= {"001", "sandbox-001"}
