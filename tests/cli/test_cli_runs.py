"""`treadle runs`: all runs below a folder in one table, whatever state they are in."""

import io
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from rich.text import Text
from torch import nn

import treadle
from records import event, repository, write_provenance
from treadle.cli.main import main
from treadle.log import tail
from treadle.log.tables import elided, print_table
from treadle.provenance.read import active_seconds, moment
from treadle.system.find import find_runs


def train(folder, lr=0.1, valid=True, handler=None, **given):
    """A run of two epochs, three steps each."""
    torch.manual_seed(0)
    data = torch.randn(24, 3), torch.randn(24, 1)
    others = tuple(column + 1 for column in data)
    config = treadle.Config(
        run_dir=folder,
        duration="2 epochs",
        batch_size=8,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
        checkpoint=treadle.CheckpointConfig(best="valid/loss" if valid else None),
        **given,
    )
    optimizer = partial(torch.optim.SGD, lr=lr)
    trainer = treadle.Trainer(nn.Linear(3, 1), nn.MSELoss(), data, valid=others if valid else None, optimizer=optimizer, config=config)
    if handler:
        trainer.on("step_finished", every="2 steps")(handler)
    return trainer.fit()


def fake(folder, status="finished", rows=(), config="batch_size: 8\n", **facts):
    """A run folder made by hand."""
    Path(folder).mkdir(parents=True)
    record = {"status": status, "reason": "", "steps": 6, "samples": 48, "epochs": 2, "duration": "2 epochs", **facts}
    Path(folder, "run.json").write_text(json.dumps(record))
    Path(folder, "config.yaml").write_text(config)
    Path(folder, "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(step, wall=0.0, **values):
    return {"step": step, "epoch": step / 3, "samples": 8 * step, "wall": wall, **values}


def said(capsys, *words, code=0):
    assert main(["runs", *words]) == code
    out, err = capsys.readouterr()
    assert (err if code == 0 else out) == "" and "Traceback" not in err
    return out if code == 0 else err


def listed(capsys, *words):
    """The table as a dict of columns by run, in order, and the lines below it."""
    _, head, *lines = said(capsys, *words).splitlines()
    rows = [line.split("\t") for line in lines if "\t" in line]
    return {cells[0]: dict(zip(head.split("\t"), cells, strict=True)) for cells in rows}, [line for line in lines if "\t" not in line]


# --- the table ---


def test_each_run_has_status_progress_values_and_what_differs_in_its_config(capsys):
    train("results/a", seed=1)
    train("results/b", handler=lambda run: run.stop("enough"))
    found, below = listed(capsys)
    assert list(found) == ["a", "b"] and below == []
    shown = set(found["a"]) - {"code"}  # which is there where these tests are in a git repository
    assert shown == {"run", "status", "done", "steps", "best valid/loss", "valid/loss", "seed", "time", "started"}
    assert [found[name][key] for name in ("a", "b") for key in ("status", "done", "steps", "seed")] == [
        *("finished", "100%", "6", "1"),
        *("stopped", "33%", "2", "0"),
    ]
    best = json.loads(Path("results/a/best.json").read_text())["best"][0]["value"]
    assert found["a"]["best valid/loss"] == f"{best:.4f}" and found["a"]["started"].startswith("20")


def test_json_is_one_object_with_everything(capsys):
    train("results/a")
    write_provenance("results/a", code={"repositories": [repository(changed=["x.py"])]})
    shown = json.loads(said(capsys, "--json"))
    (one,) = shown["runs"]
    assert (one["run"], one["status"], one["steps"], one["fraction"], one["commit"]) == ("results/a", "finished", 6, 1.0, "1111111+")
    assert one["config"]["batch_size"] == 8 and one["last_values"]["valid/loss"] >= one["best"]["valid/loss"] and shown["unread"] == []


def test_runs_of_different_experiments_share_a_table(capsys):
    fake("results/a", rows=[row(6, **{"valid/accuracy": 0.9})], config="model:\n  hidden: 3\ntrain:\n  run_dir: x\n")
    fake("results/b", rows=[row(6, **{"train/epoch_loss": 0.5})], config="lr: 0.1\nrun_dir: y\n")
    found, _ = listed(capsys)
    assert (found["a"]["valid/accuracy"], found["a"]["train/epoch_loss"], found["a"]["model.hidden"], found["a"]["lr"]) == ("0.9000", "", "3", "")
    assert (found["b"]["valid/accuracy"], found["b"]["train/epoch_loss"], found["b"]["model.hidden"], found["b"]["lr"]) == ("", "0.5000", "", "0.1")
    assert not any("run_dir" in name for name in found["a"])


def test_names_with_blanks_letters_and_brackets_are_shown_as_they_are(capsys):
    fake("results/мой прогон [1]", config="note: '[bold]ü\tx'\n")
    fake("results/b")
    assert listed(capsys)[0]["мой прогон [1]"]["note"] == "[bold]ü x"


def test_nan_and_infinite_values_are_shown_and_no_json_number(capsys):
    fake("results/a", rows=[row(1, **{"valid/loss": float("nan"), "valid/other": float("inf")})])
    assert [listed(capsys)[0]["a"][name] for name in ("valid/loss", "valid/other")] == ["nan", "inf"]
    assert json.loads(said(capsys, "--json"))["runs"][0]["last_values"] == {"valid/loss": None, "valid/other": None}


def test_a_run_that_goes_on_shows_its_newest_row_and_one_that_was_killed_its_last_checkpoint(capsys):
    seen = []
    train("results/a", handler=lambda run: seen.append(listed(capsys)[0]["a"]) if run.progress.steps == 2 else None)
    assert [(one["status"], one["done"], one["steps"]) for one in seen] in ([("running", "16%", "1")], [("running", "33%", "2")])
    record = json.loads(Path("results/a/run.json").read_text())
    Path("results/a/run.json").write_text(json.dumps({**record, "status": "running", "steps": 3, "epochs": 1, "samples": 24}))
    assert [listed(capsys)[0]["a"][name] for name in ("status", "done", "steps")] == ["cut short", "50%", "3"]


# --- which runs ---


def test_folders_in_folders_are_found_and_nothing_is_looked_for_in_a_run(capsys):
    for name in ("a", "sweep/b", "sweep/deep/c", ".hidden/d", "a/checkpoints/inner"):
        fake(f"results/{name}")
    assert set(listed(capsys)[0]) == {"a", "sweep/b", "sweep/deep/c"}
    assert set(listed(capsys, "results/sweep")[0]) == {"b", "deep/c"}
    assert set(listed(capsys, "results/a")[0]) == {"results/a"}


def test_links_are_followed_once_and_loops_end(capsys):
    fake("results/a")
    fake("elsewhere/b")
    Path("results/loop").symlink_to("..")
    Path("results/0-latest").symlink_to("a")
    Path("results/dangling").symlink_to("nowhere")
    assert [str(path) for path in find_runs("results")[0]] == ["results/a", "results/loop/elsewhere/b"]


def test_a_folder_that_cannot_be_read_is_named(monkeypatch, capsys):
    fake("results/a")
    Path("results/closed").mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found, below = listed(capsys)
    assert set(found) == {"a"} and below == ["results/closed cannot be read: Permission denied"]


def test_without_runs_it_says_so_and_is_no_failure(capsys):
    assert "no runs: there is no folder 'results'" in said(capsys)
    Path("results/001").mkdir(parents=True)
    assert said(capsys) == "no runs in 'results': no folder in it has a run.json\n"
    assert json.loads(said(capsys, "--json"))["runs"] == []
    assert "there is no folder 'nowhere'" in said(capsys, "nowhere", code=1)


# --- sort, where, limit ---


def three():
    for name, wall, loss, lr in (("b", 30.0, 0.2, 0.1), ("c", 10.0, 10.0, 0.3), ("a", 20.0, float("nan"), 0.1)):
        fake(f"results/{name}", rows=[row(1, wall, **{"valid/loss": loss})], config=f"lr: {lr}\nname: {name}\n")


def test_the_newest_is_last_unless_told(capsys):
    three()
    fake("results/d")  # nobody knows when
    assert list(listed(capsys)[0]) == ["d", "c", "a", "b"]
    assert list(listed(capsys, "--reverse")[0]) == ["b", "a", "c", "d"]
    assert list(listed(capsys, "--limit", "2")[0]) == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["--sort", "valid/loss"], ["b", "c", "a"]),  # by number, and what is none last
        (["--sort", "valid/loss", "--reverse"], ["c", "b", "a"]),
        (["--sort", "name", "--limit", "1"], ["a"]),
        (["--sort", "run"], ["a", "b", "c"]),
    ],
)
def test_sorted_by_a_column_a_value_or_a_key(words, order, capsys):
    three()
    assert list(listed(capsys, *words)[0]) == order


def test_where_takes_numbers_as_numbers_and_several_conditions(capsys):
    three()
    assert set(listed(capsys, "--where", "lr=1e-1")[0]) == {"a", "b"}
    assert set(listed(capsys, "--where", "lr=0.1", "--where", "name=b")[0]) == {"b"}
    assert set(listed(capsys, "--where", "status=finished")[0]) == {"a", "b", "c"}
    assert said(capsys, "--where", "lr=7") == "none of the 3 runs in 'results' is like that\n"


@pytest.mark.parametrize("option", ["--sort", "--values", "--where"])
def test_a_misspelt_name_gets_the_nearest(option, capsys):
    three()
    name = "valid/los=1" if option == "--where" else "valid/los"
    assert "'valid/los'; did you mean 'valid/loss'?" in said(capsys, option, name, code=1)


@pytest.mark.parametrize("words", [["--where", "lr"], ["--limit", "0"], ["--limit", "x"], ["--nonsense"]])
def test_what_is_no_command_line_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["runs", *words])
    assert end.value.code == 2 and "treadle runs: " in capsys.readouterr().err


def test_values_chooses_the_columns(capsys):
    three()
    assert set(listed(capsys, "--values", "lr")[0]["a"]) == {"run", "status", "done", "steps", "lr", "time", "started"}


# --- damage ---

FILES = ("run.json", "config.yaml", "best.json", "metrics.jsonl", "provenance/record.json", "provenance/history.jsonl")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b"\xff\xfe\n", b'"x"\n', b"{}\n"], ids=repr)
def test_a_damaged_file_stops_neither_the_list_nor_a_look(name, content, capsys):
    train("results/a")
    write_provenance("results/a", [event("started", "18:00:00")])
    shutil.copytree("results/a", "results/b")
    Path("results/a", name).write_bytes(content)
    found, below = listed(capsys)
    assert found["b"]["status"] == "finished" and set(found) == {"a", "b"}
    assert all(line.startswith("damaged: results/a: ") and name.rpartition("/")[2] in line for line in below)
    assert below or content != b"{" or name in ("metrics.jsonl", "provenance/history.jsonl")  # there it is a torn last line
    assert main(["show", "results/a"]) == 0 or name in ("run.json", "metrics.jsonl")
    assert main(["diff", "results/a", "results/b"]) in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_damage_is_told(capsys):
    fake("results/a")
    Path("results/a/best.json").write_text("{")
    write_provenance("results/a")
    Path("results/a/provenance/record.json").write_text("[]")
    Path("results/a/provenance/history.jsonl").write_text('x\n{"event": "started"}\ntorn')
    assert listed(capsys)[1] == [
        "damaged: results/a: best.json is no JSON",
        "damaged: results/a: provenance/record.json holds no JSON object",
        "damaged: results/a: line 1 of provenance/history.jsonl is no JSON object",
    ]


def test_a_run_that_has_only_its_record_is_listed(capsys):
    Path("results/a").mkdir(parents=True)
    Path("results/a/run.json").write_text("{}")
    assert {key: value for key, value in listed(capsys)[0]["a"].items() if value} == {"run": "a", "status": "damaged"}


# --- what is read ---


def test_of_a_huge_journal_only_the_ends_are_read(capsys, monkeypatch):
    fake("results/a", rows=[row(1, 100.0)])
    with open("results/a/metrics.jsonl", "ab") as file:
        file.write(b"no JSON at all\n" * 1_000_000)  # 15 MB that would be told as damage
        for step in range(2, 1000):
            file.write(json.dumps(row(step, 100.0 + step, **{"valid/loss": 1 / step})).encode() + b"\n")
    read = []

    class Counting(io.FileIO):
        def readinto(self, buffer):
            read.append(super().readinto(buffer))
            return read[-1]

        def readall(self):
            raise AssertionError("all of it is read")

    monkeypatch.setattr(tail, "open", lambda path, mode: io.BufferedReader(Counting(path, mode)), raising=False)
    found, below = listed(capsys)
    assert found["a"]["valid/loss"] == "0.0010" and found["a"]["time"] == "16:39" and below == []
    assert 0 < sum(read) < 2 * tail.TAIL


def test_a_value_that_is_logged_seldom_is_found_further_back(capsys):
    rows = [row(1, **{"valid/loss": 0.5}), *(row(step, **{"train/loss": 1.0, "x": "." * 100}) for step in range(2, 1000))]
    fake("results/a", rows=rows)
    assert Path("results/a/metrics.jsonl").stat().st_size > tail.TAIL
    assert listed(capsys)[0]["a"]["valid/loss"] == "0.5000"


def test_a_row_longer_than_the_tail_is_read_whole():
    Path("journal").write_text(json.dumps(row(1)) + "\n" + json.dumps(row(2, table="x" * 300_000)) + "\n")
    assert [one["step"] for one in tail.read_last_rows(Path("journal"))][-1:] == [2]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_the_newest_row_before_a_moment_is_found_by_halving(count):
    walls = [float(10 * step) for step in range(count)]
    Path("journal").write_text("".join(json.dumps(row(step, wall, pad="x" * (step % 7))) + "\n" for step, wall in enumerate(walls)) + '{"torn')
    for time in [-1.0, *walls, *(wall + 1 for wall in walls), float("inf")]:
        assert tail.wall_before(Path("journal"), time) == max((wall for wall in walls if wall <= time), default=None)


# --- time at work ---


def test_pauses_are_left_out_and_a_kill_ends_with_the_last_row():
    history = [event("started", "18:00:00"), event("ended", "18:00:10"), event("started", "19:00:00"), event("started", "20:00:00")]
    walls = [moment(f"2026-11-22T{time}+00:00") for time in ("18:00:05", "19:00:07", "20:00:30")]

    def before(time):
        return max((wall for wall in walls if wall <= time), default=None)

    assert active_seconds(history, before) == 10 + 7 + 30
    assert active_seconds([], before, walls[0]) == walls[-1] - walls[0]
    assert active_seconds([], lambda time: None) is None
    assert active_seconds(history[:1], lambda time: None) == 0
    assert active_seconds([{"event": "started", "time": "soon"}, event("ended", "18:00:10")], before) is None


def test_time_at_work_and_start_come_from_the_history(capsys):
    fake("results/a", rows=[row(6, moment("2026-11-22T18:30:00+00:00"))])
    write_provenance("results/a", [event("started", "18:00:00"), event("ended", "18:00:10", status="interrupted"), event("started", "18:29:00")])
    assert listed(capsys)[0]["a"]["time"] == "1:10"


# --- on a terminal ---


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_the_table_is_as_wide_as_the_terminal(width, capsys, monkeypatch):
    for name in ("b", "a-very-long-name/" * 4 + "001"):
        values = {"valid/accuracy": 0.5, "valid/loss": 1.0}
        fake(f"results/{name}", config=f"note: {name * 20}\nlr: {len(name)}\n", rows=[row(1, **values)])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    out = Text.from_ansi(said(capsys)).plain
    assert max(cell_len(line) for line in out.splitlines()) <= width
    assert "finished" in out and "..." in out and ("not shown, for lack of columns: steps" in out) == (width < 160)


def test_a_table_without_columns_to_spare_stays_as_it_is(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    print_table("", ["name", "number"], [["x" * 30, "1"]])
    assert capsys.readouterr().out.count("x") == 30


@pytest.mark.parametrize(
    ("text", "short"), [("abc", "abc"), ("abcdefghijkl", "abcd...jkl"), ("прогон-прогон", "прог...гон"), ("漢字漢字漢字漢字", "漢字...字")]
)
def test_a_long_text_loses_its_middle(text, short):
    assert elided(text, 10).replace(" ", "") == short and cell_len(elided(text, 10)) <= 10
