"""A run taken out of the archive that `pack` made: every file is verified, none is run, and nothing gets outside of its folder."""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from treadle.core.errors import RunFolderError
from treadle.provenance.pack import FORMAT, MANIFEST

_PIECE = 2**20
_LARGEST_MANIFEST = 2**26
_DAMAGE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, EOFError, NotImplementedError, RuntimeError,
    OverflowError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What the standard library raises on archives that are damaged, encrypted, or made to be."""


def unpack(archive: Path, into: Path) -> Path:
    """Take a run out of an archive, and verify every file; nothing in it is run.

    Args:
        archive: what `pack` made.
        into: an empty folder.

    Returns:
        the run folder.

    Raises:
        RunFolderError: it is no such archive, or a file in it is missing, damaged, more than was packed, or outside of the folder.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            name, files = _manifest(opened)
            folder = into / name
            folder.mkdir(parents=True)
            if (size := sum(size for size, _ in files.values())) > (free := shutil.disk_usage(folder).free):
                raise ValueError(f"its files have {size:,} bytes, and {free:,} are free on the disk")
            for path, (size, checksum) in files.items():
                _take(opened, path, size, checksum, folder)
    except _DAMAGE as error:
        why = f"there is no {MANIFEST} in it" if isinstance(error, KeyError) and MANIFEST in str(error) else str(error) or type(error).__name__
        raise RunFolderError(f"{str(archive)!r} is no archive of a run that can be read: {why}") from None
    if not (folder / "run.json").is_file():
        raise RunFolderError(f"{str(archive)!r} holds no run: there is no run.json in it")
    return folder


def _manifest(opened: zipfile.ZipFile) -> tuple[str, dict[str, tuple[int, str]]]:
    """The name of the run, and the size and the checksum of each file."""
    with opened.open(MANIFEST) as source:
        content = source.read(_LARGEST_MANIFEST + 1)
    if len(content) > _LARGEST_MANIFEST:
        raise ValueError(f"its {MANIFEST} is too large")
    manifest = json.loads(content)
    if not isinstance(manifest, dict) or "files" not in manifest:
        raise ValueError(f"its {MANIFEST} is none of treadle pack")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"its format is {manifest.get('format')!r}, and this version of Treadle reads {FORMAT}")
    name = str(manifest["run"])
    if name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise ValueError(f"the run's name is {name!r}")
    files = {str(path): (int(one["size"]), str(one["sha256"])) for path, one in manifest["files"].items()}
    if wrong := next((path for path, (size, _) in files.items() if size < 0), None):
        raise ValueError(f"the size of {wrong} is negative")
    return name, files


def _take(opened: zipfile.ZipFile, name: str, size: int, checksum: str, folder: Path) -> None:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or not place.parts or "\\" in name:
        raise ValueError(f"{name!r} is outside of its folder")
    target = folder.joinpath(*place.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), size
    with opened.open(name) as source, open(target, "wb") as written:
        while piece := source.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise ValueError(f"{name} is larger than it was")
            written.write(piece)
            digest.update(piece)
    if left or digest.hexdigest() != checksum:
        raise ValueError(f"{name} is damaged, its checksum does not match")
