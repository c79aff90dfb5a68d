"""The notebook: one output with bar and table, one picture, and a cell that can be stopped and run again; in a real kernel."""

from base64 import b64decode

import nbformat
import pytest
from nbclient import NotebookClient

from treadle.log.notebook import Display, Notebook

SETUP = """
import os, signal
import torch, treadle
from treadle.metrics import Accuracy

torch.set_num_threads(1)
inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
data = inputs, (inputs.sum(1) > 0).long()

class Stop:
    '''As the stop button does.'''
    def on_epoch_finished(self, run):
        if run.progress.epochs == 2:
            os.kill(os.getpid(), signal.SIGINT)

def trainer(name, **given):
    config = treadle.Config(run_dir=f"results/{name}", duration="3 epochs", batch_size=8, log=treadle.LogConfig(every="1 step", tensorboard=False))
    return treadle.Trainer(
        lambda: torch.nn.Linear(4, 2), torch.nn.CrossEntropyLoss(), data, valid=data, optimizer=torch.optim.SGD,
        metrics={"accuracy": Accuracy()}, writers=[treadle.Plot()], config=config, **given,
    )
"""
TRAIN = "result = trainer('whole').fit()"
STOPPED = "stopped = trainer('stopped', handlers=[Stop()]).fit()"
LOOK = "print(stopped.status, stopped.epochs, sep='|')"
CELLS = [
    SETUP,
    TRAIN,
    "first = result",
    TRAIN,
    "print(result == first, result.status)",
    STOPPED,
    LOOK,
    STOPPED,
    f"{LOOK}\nprint(stopped.metrics == result.metrics)",
]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The cells, executed one after the other in one kernel."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
        NotebookClient(book, timeout=100, allow_errors=True, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in book.cells]


def kinds(outputs):
    return [next(kind for kind in ("text/html", "image/png", "text/plain") if kind in output.data) for output in outputs]


def page_of(outputs, kind="text/html"):
    """What is there to read: the bar's output, then the table's."""
    return "\n".join(output.data[kind] for output in outputs if "text/html" in output.data)


def text(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_no_cell_fails_and_nothing_is_written_to_stderr(executed):
    outputs = [output for cell in executed for output in cell]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []


@pytest.mark.parametrize("cell", [1, 3, 7], ids=["new", "finished", "going on"])
def test_a_training_cell_shows_bar_table_and_picture_in_this_order(executed, cell):
    assert kinds(executed[cell]) == ["text/html", "text/html", "image/png"]
    assert ["<table>" in output.data.get("text/html", "") for output in executed[cell]] == [False, True, False]


def test_each_is_one_output_that_was_replaced_in_place(executed):
    cell = executed[1]
    page = page_of(cell)
    assert '<progress value="1.0000" max="1"' in page and "epoch 3/3" in page and "100%" in page
    assert page.count("<table>") == 1 and page.count("<tr>") == 1 + 3
    assert "<th>train/epoch_loss</th><th>train/accuracy</th><th>valid/loss</th><th>valid/accuracy</th>" in page
    assert [page.count(f"<td>{place}</td>") for place in ("5", "10", "15")] == [1, 1, 1]
    assert b64decode(cell[2].data["image/png"]).startswith(b"\x89PNG")


def test_the_same_is_there_as_text(executed):
    page = page_of(executed[1], "text/plain")
    assert "epoch 3/3 100%" in page and "valid/accuracy" in page and "<" not in page


def test_the_cell_of_a_finished_run_gives_the_same_result_says_so_and_shows_the_same(executed):
    first, again = executed[1], executed[3]
    assert text(executed[4]) == "True finished\n"
    page = page_of(again)
    assert "results/whole is finished already, at step 15: nothing to train" in page and page.count("<tr>") == 1 + 3
    pictures = [[output.data["image/png"] for output in cell if "image/png" in output.data] for cell in (first, again)]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 1


def test_an_interrupted_cell_returns_and_run_again_it_goes_on_to_the_same_end(executed):
    assert text(executed[6]) == "interrupted: SIGINT|2\n"
    assert text(executed[8]) == "finished|3\nTrue\n"
    assert [page_of(executed[cell]).count("<tr>") - 1 for cell in (1, 5, 7)] == [3, 2, 3], "the table is whole again"
    assert "going on after step 10" in page_of(executed[7])
    pictures = [[output.data["image/png"] for output in executed[cell] if "image/png" in output.data] for cell in (1, 7)]
    assert pictures[0] == pictures[1]


def test_the_columns_of_a_table_that_is_said_stand_below_each_other(monkeypatch):
    shown = []
    monkeypatch.setattr(Display, "show", lambda self, bundle: shown.append(bundle))
    Notebook().say("Net\ngroup  lr\nhead    1")
    assert shown[-1]["text/html"] == '<div style="font-family:monospace; white-space:pre">Net\ngroup  lr\nhead    1</div>'
    assert shown[-1]["text/plain"] == "Net\ngroup  lr\nhead    1"
