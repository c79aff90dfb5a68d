"""Secrets are known by name and by shape; ordinary hyperparameters are not taken for any."""

import json
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.provenance.secrets import WITHHELD, holds_secret, looks_secret, public, without_login, without_secrets

LETTERS = string.ascii_letters + string.digits


def forms():
    """Secrets of the forms that services give them."""

    def token(beginning, length, letters=LETTERS):
        return st.text(letters, min_size=length, max_size=length).map(lambda rest: beginning + rest)

    given_out = [("ghp_", 36), ("gho_", 36), ("github_pat_", 40), ("glpat-", 20), ("hf_", 34), ("npm_", 36), ("pypi-AgE", 60), ("sk-aB1", 45)]
    given_out += [("sk_live_", 24), ("xoxb-", 30), ("AIza", 35), ("ya29.", 40), ("hvs.", 24), ("r8_", 37), ("nvapi-", 40), ("gsk_", 40)]
    given_out += [("eyJhbGciOiJIUz.eyJzdWIiOiIxMj.", 30), ("123456789:AA", 33), ("wandb_v1_", 40), ("dckr_pat_", 27)]
    return st.one_of(*(token(*one) for one in given_out), token("AKIA", 16, string.ascii_uppercase + string.digits))


WORDS = st.sampled_from(
    re.findall(r"\S+", "resnet50 ViT Large Patch14 imagenet21k train valid Cifar100 results runs lr0.1 bf16 2026 GPT2 OpenWebText cosine v2 step")
)
NAMES = st.sampled_from(
    re.findall(
        r"\S+",
        "lr batch_size run_dir duration model.hidden optimizer.betas max_tokens num_tokens pad_token eos_token token_dim tokenizer tokens_per_batch "
        "key_dim num_keys sort_key attention.heads patience author monkey keyboard secretary passes data.path checkpoint.best revision seed",
    )
)
PLAIN = ["true", "null", "10 epochs", "[0.9,0.999]", "<pad>", "[CLS]", "1_000", "auto", "https://host.example/a/b.tar.gz", "bert-base-uncased"]
PATHS = st.lists(WORDS, min_size=1, max_size=6).flatmap(lambda words: st.sampled_from("/-_").map(lambda between: between.join(words)))
VALUES = st.one_of(
    st.integers().map(str), st.floats(allow_nan=False).map(repr), PATHS, PATHS.map("/data/{}".format),
    st.sampled_from(PLAIN),
)  # fmt: skip


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.booleans())
def test_ordinary_hyperparameters_are_never_withheld(pairs, as_options):
    words = [word for name, value in pairs for word in (["--" + name, value] if as_options else [f"{name}={value}"])]
    assert without_secrets(["python", "src/main.py", *words]) == ["python", "src/main.py", *words]


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.sampled_from([": ", "=", " = "]))
def test_a_file_of_ordinary_hyperparameters_holds_no_secret(pairs, between):
    assert not holds_secret("".join(f"{name}{between}{value}\n" for name, value in pairs).encode())


@given(forms(), st.sampled_from(["{}", "x={}", "--x={}", "data=https://host/{}", "https://me:{}@host/x", '{{"a": "{}"}}', "say {} aloud", "a,{}"]))
def test_known_forms_are_always_withheld(secret, around):
    assert looks_secret(secret)
    found = " ".join(without_secrets(["python", around.format(secret), "--option", around.format(secret)]))
    assert secret not in found and WITHHELD in found
    assert holds_secret(f"# a file\nx = '{secret}'\n".encode())


@given(st.sampled_from(["token", "--token", "api_key", "WANDB_API_KEY", "db.password", "secret", "auth", "accessToken", "hf_token", "GITHUB_PAT"]))
def test_named_secrets_are_withheld_whatever_they_are(name):
    assert "plain-words" not in " ".join(without_secrets([f"{name}=plain-words", "https://host/?" + name.strip("-") + "=plain-words"]))
    if name.startswith("--"):
        assert without_secrets([name, "plain-words"]) == [name, WITHHELD]
    assert public({name: ["plain-words"], "a": {name: "plain-words"}, "b": "ok"}) == {name: [WITHHELD], "a": {name: WITHHELD}, "b": "ok"}


@pytest.mark.parametrize(
    "word, shown",
    [
        ("url=https://me:p@ss@host/x", "url=https://(withheld)@host/x"),
        ("postgres://me:pw@host/db", "postgres://(withheld)@host/db"),
        ("data=https://host/x?token=abc&part=2", "data=https://host/x?token=(withheld)&part=2"),
        ("Authorization: Bearer abcdef", "Authorization: (withheld)"),
        ('{"api_key": "abc", "lr": 0.1}', '{"api_key": "(withheld)", "lr": 0.1}'),
        ("model=/cache/snapshots/" + "0a1b" * 10, "model=/cache/snapshots/" + "0a1b" * 10),
        ("revision=" + "0a1b" * 10, "revision=" + "0a1b" * 10),
        ("x=" + "0a1b" * 10, "x=(withheld)"),
        ("data=mask-rcnn-R50-FPN-3x-coco-2017-longer", "data=mask-rcnn-R50-FPN-3x-coco-2017-longer"),
    ],
)
def test_a_word_is_shown_without_what_is_secret_in_it(word, shown):
    assert without_secrets([word]) == [shown]


WRITTEN = ['wandb.login(key="{}")', 'os.environ["WANDB_API_KEY"] = "{}"', "export API_KEY={}", "api_key: {}", "+password = '{}'"]
ORDINARY = ["pad_token = '<|endoftext|>'", "token = tokens[0]", "api_key = os.environ['API_KEY']", "self.key = key2value", f"sha = '{'0a1b' * 10}'"]


WRITTEN += ["token: tok_{}", "hub.token: {}!a@b.c", "- hub_token: a_{}", "API_TOKEN=a.{}_b", '"api_key = \\"{}\\"\\n",', '"lr = 1\\napi_key: {}\\n"']
WRITTEN += [
    "x" * 5000 + " password='{}'",
    "postgres://me:{}@host/db",
    "url = 'redis://:{}@localhost:6379'",
    "api_key='{}', other='plain words of 2 kinds'",
]
ORDINARY += [
    "    token=config.hub.token_v2",
    "token = config.hub.token_v2",
    "https://user:password@host/x",
    "f'https://{me}:{key}@host'",
    "https://me@host:80/",
]
ORDINARY += ["token: null", "https://(withheld)@host/x", '{"train/tokens": 123456789012345}', "max_token: llama_32_instruct_v1"]


@pytest.mark.parametrize("line", WRITTEN)
def test_a_file_in_which_a_secret_is_written_down_is_known(line):
    assert holds_secret(("a = 1\n" + line.format("0a1b2c3d" * 5) + "\nb = 2\n").encode())


@pytest.mark.parametrize("line", ["api_key: {}\n", '"api_key": "{}"\n'])
def test_in_a_large_file_too(line):
    rows = b'{"step": 1, "train/tokens": 4096, "url": "https://host.example/a"}\n' * 2**15
    assert len(rows) > 2**20 and not holds_secret(rows)
    assert holds_secret(rows + line.format("0a1b2c3d" * 5).encode() + rows)


def test_an_address_is_kept_without_what_opens_it():
    address = "https://oauth2:abc@host/x.git?private_token=abc&ref=main"
    assert without_login(address) == f"https://{WITHHELD}@host/x.git?private_token={WITHHELD}&ref=main"


@pytest.mark.parametrize("line", ORDINARY)
def test_ordinary_code_holds_no_secret(line):
    assert not holds_secret(f"{line}\n".encode())


PROGRAM = """
import sys
import torch, treadle

config = treadle.Config(run_dir="results/a", duration="2 steps", batch_size=2)
data = (torch.zeros(8, 2), torch.zeros(8, 1))
treadle.train(torch.nn.Linear(2, 1), torch.nn.MSELoss(), data, optimizer=torch.optim.SGD, config=config)
"""


def test_a_planted_secret_is_nowhere_in_the_folder_of_a_run():
    named, shaped, login, long = "plain-words-of-mine", "ghp_" + "Q7w8" * 9, "pass-of-mine", "hG7sK2mQ9xT4vB8nL3pZ6wRc"
    Path("main.py").write_text(PROGRAM)
    Path("notes.yaml").write_text(f"api: {shaped}\n")
    secrets = {"HF_TOKEN": named, "TORCH_NOTE": shaped, "PYTHON_INDEX": f"https://me:{login}@host/", "WANDB_API_KEY": long, "TREADLE_X": long}
    words = ["--token", named, f"api_key={named}", shaped, f"x={long}", f"https://me:{login}@host/x?token={named}"]
    subprocess.run(["git", "init", "-q"], check=True)
    done = subprocess.run([sys.executable, "main.py", *words], env={**os.environ, **secrets}, capture_output=True, text=True, check=True)
    planted = [secret.encode() for secret in (named, shaped, login, long)]
    files = [path for path in Path("results/a").rglob("*") if path.is_file()]
    assert not [(path, secret) for path in files for secret in planted if secret in path.read_bytes()]
    assert not [secret for secret in planted if secret.decode() in done.stdout + done.stderr]
    record = json.loads(Path("results/a/provenance/record.json").read_text())
    assert record["command"][1:] == ["main.py", "--token", WITHHELD, f"api_key={WITHHELD}", WITHHELD, f"x={WITHHELD}", record["command"][7]]
    assert record["environment"]["variables"]["HF_TOKEN"] == WITHHELD
