"""`treadle new`: a project to make one's own. The files are in `project/`, as they are."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from treadle.core.errors import UsageError

PROJECT = Path(__file__).with_name("project")


def create(folder: Path) -> list[Path]:
    """Make a project.

    Args:
        folder: where; it must not be there yet, or be empty.

    Returns:
        the files, in order.

    Raises:
        UsageError: something is there already, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{str(folder)!r} is there already; give the name of a new folder")
    made = []
    try:
        for source in sorted(path for path in PROJECT.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            target = folder / source.relative_to(PROJECT)
            target = target.with_name(".gitignore") if target.name == "gitignore" else target
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_content(source, folder.resolve().name))
            made.append(target)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename!r}: {error.strerror}") from None
    return made


def _content(source: Path, name: str) -> bytes:
    if source == PROJECT / "README.md":
        return source.read_bytes().replace(b"PROJECT", name.encode())
    if source == PROJECT / "requirements.txt":
        return source.read_bytes().replace(b"TREADLE", _requirement().encode())
    return source.read_bytes()


def _requirement() -> str:
    """Treadle as pip can install it again: from where this one came, if it came from a folder or a repository."""
    found = metadata.distribution("treadle")
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    wanted = "treadle[plot,tensorboard]"
    if origin.get("dir_info", {}).get("editable"):
        return f"-e {unquote(urlparse(origin['url']).path)}[plot,tensorboard]"
    if "vcs_info" in origin:
        return f"{wanted} @ {origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"
    return f"{wanted} @ {origin['url']}" if "url" in origin else f"{wanted}=={found.version}"
