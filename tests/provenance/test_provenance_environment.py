"""The environment of a record: what a result may depend on, and no secret."""

import os
import sys
from types import ModuleType

import pytest
import torch

from treadle.provenance.environment import _installed, _owners, environment, imported, packages


def test_it_says_what_computes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "plain-words")
    monkeypatch.setenv("MY_OWN", "1")
    found = environment(torch.device("cpu"))
    assert found["python"] == ".".join(map(str, sys.version_info[:3])) and found["cores"] == os.cpu_count()
    assert found["threads"] == torch.get_num_threads() and found["torch_build"].startswith(torch.__version__)
    assert found["variables"]["OMP_NUM_THREADS"] == "3" and found["variables"]["HF_TOKEN"] == "(withheld)" and "MY_OWN" not in found["variables"]
    assert found["cpu"] and found["gpus"] == []


def test_it_names_what_is_installed_and_what_of_it_is_imported():
    found = environment(torch.device("cpu"))
    assert found["packages"]["torch"] == torch.__version__ and found["packages"] == packages()
    assert {"torch", "numpy"} <= set(found["imported"]) <= set(found["packages"])


def forget():
    for cached in (packages, _installed, _owners):
        cached.cache_clear()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes installed distributions of files, and modules of some of them."""

    def install(**files):
        place = tmp_path / "site-packages"
        for name, lines in files.items():
            folder = place / f"{name}-1.0.dist-info"
            folder.mkdir(parents=True)
            (folder / "RECORD").write_text("".join(f"{line},,\n" for line in lines))
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        monkeypatch.syspath_prepend(str(place))
        forget()

    def use(name, file):
        module = ModuleType(name)
        module.__file__ = None if file is None else str(tmp_path / file)
        monkeypatch.setitem(sys.modules, name, module)

    yield install, use
    forget()


def test_a_folder_that_distributions_share_is_the_module_of_none(installed):
    install, use = installed
    install(cloudy_a=["cloudx/a/__init__.py", "cloudx/a/deep/x.py"], cloudy_b=["cloudx/b/__init__.py"], cloudy_c=["cloudx/c.py", "cloudx/data.txt"])
    use("cloudx", None)
    use("cloudx.a", "site-packages/cloudx/a/__init__.py")
    assert [name for name in imported() if name.startswith("cloudy")] == ["cloudy-a"]
    use("cloudx.c", "site-packages/cloudx/c.py")
    assert [name for name in imported() if name.startswith("cloudy")] == ["cloudy-a", "cloudy-c"]


def test_a_module_of_the_user_is_no_distribution_s(installed):
    install, use = installed
    install(stray=["checks_of_mine/__init__.py", "stray_one/__init__.py"], native=["_nativex.cpython-311-x86_64-linux-gnu.so"])
    use("checks_of_mine", "project/checks_of_mine/__init__.py")
    assert not {"stray", "native"} & set(imported())
    use("_nativex", "site-packages/_nativex.cpython-311-x86_64-linux-gnu.so")
    assert {"stray", "native"} & set(imported()) == {"native"}
