"""``sga-monai benchmark``: time this machine."""

from __future__ import annotations

import statistics
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
