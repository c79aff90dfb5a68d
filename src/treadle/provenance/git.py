"""Git, asked and never told: nothing here changes the user's index, branch or working tree.

What is asked of it is asked by the program `git` itself, without locks, hooks, terminal prompts or the user's own
settings for diffs.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SECONDS = 20
"""After this time a question is given up."""
_ARGUMENTS = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "core.quotePath=false", "-c", "diff.noprefix=false")
_DIFF = ("--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--ignore-submodules=all")
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_EXTERNAL_DIFF")
"""Variables that would point to another repository, where a hook of git's started the program."""
_PREFIXES = ("--src-prefix=a/", "--dst-prefix=b/")


class GitError(Exception):
    """Git is not there, or says no; the message is its own."""


def git(root: Path, *words: str, input: bytes | None = None) -> bytes:
    """What git answers in a folder.

    Raises:
        GitError: it is not installed, gives an error, or takes too long.
    """
    own = {name: value for name, value in os.environ.items() if name not in _OF_A_HOOK}
    try:
        done = subprocess.run(
            ["git", *_ARGUMENTS, "-C", str(root), *words], input=input, capture_output=True, env=own | _QUIET, timeout=SECONDS, check=False,
            stdin=subprocess.DEVNULL if input is None else None,
        )  # fmt: skip
    except FileNotFoundError:
        raise GitError("git is not installed") from None
    except subprocess.TimeoutExpired:
        raise GitError(f"git {words[0]} took more than {SECONDS} s") from None
    except (OSError, ValueError) as error:
        raise GitError(str(error)) from None
    if done.returncode:
        raise GitError((done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}").splitlines()[0])
    return done.stdout


def root_of(folder: Path) -> Path | None:
    """The working tree that a folder is in; None where it is in none. Asks no program."""
    return next((place for place in (folder, *folder.parents) if (place / ".git").exists()), None)


def commit_of(root: Path) -> str:
    """The commit that is checked out, 40 hexadecimal digits.

    Raises:
        GitError: there is none yet, or git will not say.
    """
    return git(root, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()


def branch_of(root: Path) -> str | None:
    """The branch that is checked out; None where HEAD is detached."""
    return _maybe(root, "symbolic-ref", "--short", "-q", "HEAD")


def remote_of(root: Path) -> str | None:
    """Where the repository came from, as it is written down in it."""
    return _maybe(root, "config", "--get", "remote.origin.url")


def changed(root: Path) -> list[str]:
    """Tracked files that differ from the commit, staged or not, by their path in the repository."""
    return _names(git(root, "diff", "HEAD", "--name-only", "-z", "--no-ext-diff", "--no-renames", "--ignore-submodules=all"))


def untracked(root: Path) -> list[str]:
    """Files that git neither tracks nor ignores; whole repositories among them are left out."""
    return [name for name in _names(git(root, "ls-files", "--others", "--exclude-standard", "-z")) if not name.endswith("/")]


def beside(root: Path) -> list[str]:
    """What stands in the working tree and in no commit, ignored or not; of a folder that holds nothing else, its name only."""
    asked = ("ls-files", "--others", "--directory", "-z")
    answers = [git(root, *asked, "--ignored", "--exclude-standard"), git(root, *asked, "--exclude-standard")]
    return list(dict.fromkeys(name.rstrip("/") for answer in answers for name in _names(answer)))


def tracked(root: Path, names: list[str]) -> set[str]:
    """Those of some files that git tracks."""
    return set(_names(git(root, "ls-files", "-z", "--", *(f":(literal){name}" for name in names)))) if names else set()


def filtered(root: Path, names: list[str]) -> set[str]:
    """Those of some files whose content git keeps elsewhere or otherwise: git-lfs, git-crypt."""
    answer = _names(git(root, "check-attr", "-z", "--stdin", "filter", input="\0".join(names).encode(errors="surrogateescape"))) if names else []
    return {name for name, value in zip(answer[::3], answer[2::3], strict=False) if value not in ("unspecified", "unset", "")}


def patch(root: Path, names: list[str]) -> bytes:
    """The difference between the commit and the working tree for some files, as `apply` takes it."""
    listed = [f":(top,literal){name}" for name in names]
    return git(root, "diff", "HEAD", *_DIFF, *_PREFIXES, "--", *listed) if names else b""


def submodules(root: Path) -> list[Path]:
    """The submodules of a repository that are checked out, and theirs."""
    if not (root / ".gitmodules").is_file():
        return []
    answer = _maybe(root, "config", "-f", ".gitmodules", "-z", "--get-regexp", r"^submodule\..*\.path$") or ""
    paths = [root / entry.partition("\n")[2] for entry in answer.split("\0") if "\n" in entry]
    found = [path for path in paths if (path / ".git").exists()]
    return [place for path in found for place in (path, *submodules(path))]


# --- for a place of our own ---


def has(root: Path, commit: str) -> bool:
    """Whether a repository holds a commit."""
    try:
        git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True


def archived(root: Path, commit: str, largest: int) -> bytes:
    """The files of a commit as a tar archive.

    Raises:
        GitError: the commit is not there, or its files are larger than `largest` bytes together.
    """
    sizes = [entry.split()[3] for entry in _names(git(root, "ls-tree", "-r", "-l", "-z", commit))]
    if (size := sum(int(size) for size in sizes if size.isdigit())) > largest:
        raise GitError(f"its files have {size:,} bytes")
    return git(root, "archive", "--format=tar", commit)


def check_out(root: Path, commit: str, place: Path) -> None:
    """A working tree of a commit in another place; the user's own stays as it is.

    Raises:
        GitError: the commit is not there, or cannot be checked out.
    """
    git(root, "worktree", "add", "--quiet", "--detach", "--force", str(place), commit)


def give_up(root: Path, place: Path) -> None:
    """Forget a working tree that `check_out` made; its files are removed."""
    for words in (("worktree", "remove", "--force", "--force", str(place)), ("worktree", "prune")):
        try:
            git(root, *words)
        except GitError:  # what is left of it is in a temporary folder
            continue


def apply(place: Path, patch: Path) -> None:
    """Apply a patch to a working tree.

    Raises:
        GitError: it does not fit.
    """
    git(place, "apply", "--binary", "--whitespace=nowarn", str(patch))


def _names(answer: bytes) -> list[str]:
    return [os.fsdecode(name) for name in answer.split(b"\0") if name]


def _maybe(root: Path, *words: str) -> str | None:
    try:
        return os.fsdecode(git(root, *words)).rstrip("\n") or None
    except GitError:
        return None
