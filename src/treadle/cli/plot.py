"""`treadle plot RUN... [-o file.png]`: the curves of one or several runs as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from treadle.cli.show import add_values_argument, curves_of, run_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders; several go into one figure")
    parser.add_argument("-o", "--output", metavar="FILE", help="a .png, .svg, .pdf or .html; unless told, a .png in the run, or beside several")
    add_values_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Draw them."""
    from treadle.log.figure import draw, save

    folders = [run_folder(name) for name in options.runs]
    labels = labels_of(folders)
    figure = draw({label: curves_of(folder, options.values) for label, folder in zip(labels, folders, strict=True)})
    ends = labels if len(labels) <= 4 else [labels[0], "to", labels[-1]]
    beside = folders[0].parent / f"compare-{'-'.join(label.replace('/', '_') for label in ends)}.png"
    target = Path(options.output) if options.output else folders[0] / "plots" / "curves.png" if len(folders) == 1 else beside
    save(figure, target)
    print(target)
    return 0


def labels_of(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        labels = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]
