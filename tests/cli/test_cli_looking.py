"""Looking at runs from the command line: show, plot, board, completion; none of them waits for torch, or changes a run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from shtab import SUPPORTED_SHELLS as SHELLS
from torch import nn

import treadle
from records import event, repository, write_provenance
from treadle.cli.main import VERBS, guarded, main
from treadle.log.tables import print_table

PROGRAM = [sys.executable, "-c", "import sys; from treadle.cli.main import guarded, main; sys.exit(main())"]


def train(folder="results/001", handler=None, tensorboard=False, loss=None, **given):
    """A run of two epochs, three steps each."""
    torch.manual_seed(0)
    data = torch.randn(24, 3), torch.randn(24, 1)
    config = treadle.Config(
        run_dir=folder,
        data=treadle.DataConfig(leaks="off"),  # it is validated on what it learns from
        duration="2 epochs",
        batch_size=8,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=tensorboard, every="1 step"),
        checkpoint=treadle.CheckpointConfig(best="valid/loss"),
    )
    trainer = treadle.Trainer(nn.Linear(3, 1), nn.MSELoss(), data, valid=data, optimizer=partial(torch.optim.SGD, lr=0.1), config=config, **given)
    if handler:
        trainer.on("step_finished", every="4 steps")(handler)
    return trainer.fit()


def said(capsys, *words, code=0):
    """What a command line prints; the other stream is empty."""
    assert main(list(words)) == code
    out, err = capsys.readouterr()
    assert (err if code == 0 else out) == "" and "Traceback" not in err
    return out if code == 0 else err


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(folder).rglob("*") if path.is_file()}


# --- show ---


def test_show_gives_status_values_checkpoints_and_curves_and_changes_nothing(capsys):
    result = train()
    before = snapshot("results")
    facts, _, rest = said(capsys, "show", "results/001").partition("what made it\n")
    assert facts.startswith("results/001: finished\n")
    curves, _, tables = rest.partition("values\n")
    values, _, config = tables.partition("config, where it is your own or differs from the default\n")
    told = dict(line.split("\t") for line in facts.splitlines()[1:])
    assert "batch_size\t8" in config and "machine.workers" not in config
    assert told["progress"] == "2 epochs, 6 steps, 48 samples" and told["duration"] == "2 epochs"
    assert told["best"].partition(",")[0] == told["last"] == "checkpoints/step-000006" and "step-000006" in told["checkpoints"]
    head, *rows = [line.split("\t") for line in values.splitlines() if "\t" in line]
    table = {name: [float(number) for number in numbers] for name, *numbers in rows}
    assert head == ["value", "last", "smallest", "largest"]
    losses = [row["train/loss"] for row in treadle.read_journal("results/001")]
    assert table["train/loss"] == pytest.approx([losses[-1], min(losses), max(losses)], rel=1e-3)
    assert table["valid/loss"][0] == pytest.approx(result.metrics["valid/loss"], rel=1e-3)
    assert "⠤⠤ train/loss" in curves and "⠤⠤ valid/loss" in curves and "\x1b" not in curves
    assert snapshot("results") == before


def test_show_json_is_one_object_with_the_record_and_the_last_values(capsys):
    result = train()
    shown = json.loads(said(capsys, "show", "results/001", "--json"))
    record = json.loads(Path("results/001/run.json").read_text())
    assert {**shown, "run": "results/001", **record} == shown
    assert (shown["fraction"], shown["damaged"], shown["leaks"], shown["capsules"]) == (1.0, [], {}, [])
    assert shown["config"]["batch_size"]["value"] == 8
    assert {name: shown["last_values"][name] for name in result.metrics} == result.metrics


def test_show_reads_a_run_while_it_goes_on_and_after_it_was_interrupted(capsys):
    seen = []

    def status():
        return [line for line in said(capsys, "show", "results/001").splitlines() if line.startswith(("results/001: ", "progress"))]

    def look_and_stop(run):
        seen.append(status())
        os.kill(os.getpid(), signal.SIGINT)

    assert train(handler=look_and_stop).status == "interrupted: SIGINT"
    assert seen[0][0] == "results/001: running"
    assert status() == ["results/001: interrupted (SIGINT)", "progress\t1 epoch, 4 steps, 32 samples"]
    record = json.loads(Path("results/001/run.json").read_text())
    Path("results/001/run.json").write_text(json.dumps({**record, "status": "running", "reason": ""}))  # as kill -9 leaves it
    assert status()[0] == "results/001: cut short (its process is gone; the same command goes on)"


def test_show_draws_only_the_values_that_are_named_and_of_a_misspelt_one_gives_the_nearest(capsys):
    train()
    drawn = said(capsys, "show", "results/001", "--values", "valid/loss")
    assert "⠤⠤ valid/loss" in drawn and "⠤⠤ train/loss" not in drawn
    assert main(["show", "results/001", "--values", "valid/los"]) == 1
    assert "'results/001' has no values named 'valid/los'; did you mean 'valid/loss'?" in capsys.readouterr().err


def test_what_is_no_run_folder_is_told_apart(capsys):
    for name in ("a", "b"):
        shutil.copytree(train().run_dir, f"results/{name}")
    Path("empty").mkdir()
    assert "'results' is no run folder, but holds results/001, results/a, results/b" in said(capsys, "show", "results", code=1)
    assert "'empty' is no run folder: it has no run.json" in said(capsys, "show", "empty", code=1)
    assert "there is no folder 'nowhere'" in said(capsys, "show", "nowhere", code=1)


def test_a_file_is_no_run_folder(capsys):
    train()
    assert "'results/001/metrics.jsonl'" in said(capsys, "show", "results/001/metrics.jsonl", code=1)


# --- plot ---


def test_plot_goes_into_the_run_unless_told_and_says_where(capsys):
    train()
    assert said(capsys, "plot", "results/001") == "results/001/plots/curves.png\n"
    assert Path("results/001/plots/curves.png").read_bytes().startswith(b"\x89PNG")
    assert said(capsys, "plot", "results/001", "-o", "new/one.svg", "--values", "valid/loss") == "new/one.svg\n"
    drawn = Path("new/one.svg").read_text()
    assert "valid/loss" in drawn and "train/loss" not in drawn


def test_several_runs_are_in_one_picture_under_the_shortest_names_that_tell_them_apart(capsys):
    shutil.copytree(train("deep/a/run").run_dir, "deep/b/run")
    shutil.copytree("deep/a/run", "deep/b/other")
    for runs, labels in ((["a/run", "b/run"], ["a/run", "b/run"]), (["b/run", "b/other"], ["run", "other"])):
        said(capsys, "plot", *(f"deep/{run}" for run in runs), "-o", "both.svg")
        assert re.findall("<!-- (.*): valid/loss -->", Path("both.svg").read_text()) == labels


def test_plot_refuses_another_ending_and_a_value_that_one_run_lacks(capsys):
    train()
    assert "its name must end in .png, .svg, .html, .pdf" in said(capsys, "plot", "results/001", "-o", "curves.gif", code=1)
    assert "has no values named 'valid/lss'; did you mean" in said(capsys, "plot", "results/001", "--values", "valid/lss", code=1)


# --- board ---


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "there is no folder 'nowhere'"), ("empty", "no run under 'empty' has TensorBoard files")],
)
def test_board_says_what_is_missing(folder, message, capsys):
    Path("empty").mkdir()
    assert message in said(capsys, "board", folder, code=1)


def test_board_without_tensorboard_says_what_to_install(capsys, monkeypatch):
    Path("results").mkdir()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert "tensorboard is not installed: pip install 'treadle[tensorboard]'" in said(capsys, "board", code=1)


def test_board_serves_the_runs_of_a_folder_until_ctrl_c():
    train(tensorboard=True)
    server = subprocess.Popen([*PROGRAM, "board", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said_so_far = []
        while not (found := re.search(r"(http://\S+:\d+/)", said_so_far[-1] if said_so_far else "")):
            said_so_far.append(server.stderr.readline())
            assert said_so_far[-1], "".join(said_so_far)
        runs, asked = [], 0
        while not runs and (asked := asked + 1) < 5000:  # it begins to serve before it has read them
            with urlopen(f"{found[1]}data/runs", timeout=60) as reply:
                runs = json.load(reply)
        os.killpg(server.pid, signal.SIGINT)  # as the terminal does
        out, err = server.communicate(timeout=60)
    finally:
        server.kill()
    assert runs == ["001/tensorboard"]
    assert server.returncode in (0, 128 + signal.SIGINT)
    assert out == "Ctrl-C ends it.\n" and "Traceback" not in err


# --- completion ---


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_knows_every_command_and_its_options(shell, capsys):
    script = said(capsys, "completion", shell)
    assert [verb for verb in VERBS if not re.search(rf"\b{verb}\b", script)] == []
    assert "accept-changes" in script or "accept_changes" in script


def test_bash_accepts_its_script_and_completes_with_it(capsys):
    script = said(capsys, "completion", "bash")
    ask = "\nCOMP_WORDS=(treadle sh)\nCOMP_CWORD=1\n$(complete -p treadle | sed 's/.*-F \\([^ ]*\\).*/\\1/') treadle sh treadle\n"
    ask += 'echo "${COMPREPLY[@]}"\n'
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""
    done = subprocess.run(["bash", "--norc"], input=script + ask, text=True, capture_output=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["show"], "")


# --- the process ---


def test_looking_waits_for_no_torch():
    """A command of these is there at once."""
    train()
    lines = [
        ["--help"],
        ["--version"],
        ["show", "results/001"],
        ["runs"],
        ["diff", "results/001", "results/001"],
        ["plot", "results/001"],
        ["completion", "bash"],
        *([verb, "--help"] for verb in VERBS),
    ]
    code = (
        "import sys\nfrom treadle.cli.main import guarded, main\n"
        f"for words in {lines}:\n"
        "    try: assert main(words) == 0, words\n"
        "    except SystemExit as end: assert end.code == 0, words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["--help"], ["show", "results/001"], ["completion", "zsh"]], ids=" ".join)
def test_who_stops_reading_gets_no_traceback(words):
    train()
    reads, writes = os.pipe()
    os.close(reads)  # as `| head` does when it has enough
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([*PROGRAM, *words], stdout=writes, stderr=subprocess.PIPE, text=True, check=False, env=settings)
    os.close(writes)
    assert done.stderr == "" and done.returncode not in (0, 2)


# --- outputs that are not there, and names that look like something else ---


@pytest.mark.parametrize("words", [["show", "results/001"], ["plot", "results/001"], ["--help"]])
def test_a_closed_output_is_no_failure(words):
    train()
    done = subprocess.run(f"{sys.executable} -m treadle {' '.join(words)} >&-", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_values_with_brackets_are_shown_as_they_are(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table("a [b] table", ["name", "[x]"], [["[relu, tanh]", "a[/x]"]])
    out = capsys.readouterr().out
    assert "a [b] table" in out and "[relu, tanh]" in out and "a[/x]" in out and "[x]" in out


def test_a_pipe_of_the_users_own_that_breaks_is_an_exception_like_any_other():
    def call():
        raise BrokenPipeError("mine")

    with pytest.raises(BrokenPipeError, match="mine"):
        guarded("treadle", call)


# --- what made it, in show ---


def test_show_names_what_made_a_run_its_data_leaks_and_origins(capsys):
    train()
    folder = Path("results/001")
    code = {"repositories": [repository(changed=["a.py"], untracked=["b.py", "c.py"])]}
    history = [event("started", "18:00:00"), event("ended", "18:01:00"), event("started", "19:00:00", accepted=["config lr: 0.1 -> 0.2"])]
    write_provenance(folder, [*history, event("ended", "19:00:05")], code=code)
    pair = {"one": "train", "other": "valid", "kind": "same item", "count": 5, "matches": [[17, 3], [18, 4], [19, 5], [20, 6]]}
    leaks = {"pairs": [pair], "coverage": {"valid": {"read": 24, "total": 24}}, "notes": ["a note"]}
    (folder / "provenance/leaks.json").write_text(json.dumps({"format": 1, "leaks": leaks}))
    (folder / "capsules/one").mkdir(parents=True)
    lines = said(capsys, "show", "results/001").splitlines()
    assert lines[0] == "results/001: finished"
    for line in (
        "active\t1:05 in 2 starts",
        "accepted\tconfig lr: 0.1 -> 0.2",
        "capsules\tone",
        "command\tpython src/main.py lr=0.1",
        "code\t111111111111 on main, 1 changed file and 2 untracked files",
        "python\t3.11.9, treadle 0.1.0",
        "host\tname, a cpu",
        "train and valid\t5 items, same item: train 17 = valid 3, train 18 = valid 4, train 19 = valid 5, ...",
        "compared\t24 of 24 valid items",
        "train\t55,000\ttuple",
        "batch_size\t8\tmy.yaml:4",
        "duration\t2 epochs\tcommand line",
    ):
        assert line in lines
    shown = json.loads(said(capsys, "show", "results/001", "--json"))
    assert (shown["active_seconds"], shown["starts"], shown["accepted"], shown["capsules"]) == (65.0, 2, ["config lr: 0.1 -> 0.2"], ["one"])
    assert shown["config"]["batch_size"] == {"value": 8, "from": "my.yaml:4"} and shown["leaks"]["leaks"] == leaks
    assert shown["provenance"]["environment"]["packages"]["numpy"] == "2.1.0"


def test_show_tells_a_damaged_record_and_shows_the_rest(capsys):
    train()
    Path("results/001/run.json").write_text("{")
    Path("results/001/provenance").mkdir(exist_ok=True)
    Path("results/001/provenance/leaks.json").write_text("{")
    out = said(capsys, "show", "results/001")
    assert out.startswith("results/001: damaged (run.json cannot be read)\n") and "provenance/leaks.json is no JSON" in out and "train/loss\t" in out
