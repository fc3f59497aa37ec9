"""``sga-monai benchmark``: time this machine."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Measure this machine.")


@app.command()
def read(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched with its subfolders.")],
    image_size: Annotated[int, typer.Option(help="Pixels of a side after resizing.")] = 224,
    rounds: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 3,
    limit: Annotated[int, typer.Option(help="Number of files, drawn with a fixed seed.", min=1)] = 100,
) -> None:
    """Images a second of this package's chain and of MONAI's default chain, interleaved on the same files."""
    from sga_monai import benchmark

    timing = benchmark.time_reading(folder, image_size, rounds, limit)
    table = Table("chain", "images", "images/s", title=f"one process, {image_size} px, median of {rounds} rounds")
    for line in benchmark.lines(timing):
        table.add_row(*line)
    Console().print(table)
    typer.echo(f"reading and decoding take {timing.codec_share:.0%} of our time")
    if timing.ratios:
        middle, low, high = statistics.median(timing.ratios), min(timing.ratios), max(timing.ratios)
        typer.echo(f"MONAI's chain takes {middle:.1f} times as long [{low:.1f}, {high:.1f}] on the files that it reads")


@app.command()
def commands(
    context: typer.Context,
    bundle: Annotated[Path | None, typer.Option(help="A bundle of sga-monai package: also time verify.")] = None,
    report: Annotated[Path | None, typer.Option(help="A folder of sga-monai report: also time release.")] = None,
    releases: Annotated[list[Path] | None, typer.Option(help="release.json of two sites or more: also time pool.")] = None,
    rounds: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 3,
) -> None:
    """CPU seconds of each command: its help and, with inputs, verify, release and pool in earnest."""
    from sga_monai import benchmark

    names = sorted(getattr(context.find_root().command, "commands", {}))
    given = [["version"], ["--help"], *([name, "--help"] for name in names if name != "version")]
    with tempfile.TemporaryDirectory() as folder:
        if bundle is not None:
            given.append(["verify", str(bundle)])
        if report is not None:
            given.append(["release", str(report), "--out", f"{folder}/release.json"])
        if releases:
            given.append(["pool", *map(str, releases), "--out", folder])
        table = Table("command", "CPU seconds", title=f"one process each, median of {rounds} rounds")
        for arguments in given:
            shown = arguments[0] if len(arguments) > 1 and arguments[1] != "--help" else " ".join(arguments)
            table.add_row(shown, f"{benchmark.command_seconds(arguments, rounds):.2f}")
    Console().print(table)
