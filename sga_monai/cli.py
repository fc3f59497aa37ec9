"""The command ``sga-monai``: phantom, manifests, experiments, audits, bundles for hospitals. Training is a MONAI bundle."""

from __future__ import annotations

import logging
import statistics
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sga_monai import __version__, benchmark, cli_manifest, cli_research, cli_site
from sga_monai.errors import EXIT_INPUT_REFUSED, EXIT_INTERRUPTED, InputError, input_error
from sga_monai.phantom import write_contact_sheet, write_phantom
from sga_monai.reader import read_cxr

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
benchmarks = typer.Typer(no_args_is_help=True, help="Measure this machine.")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder for images, masks and manifests; later the dataset_dir.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    external_images: Annotated[int, typer.Option(help="Images of each external site, even.")] = 60,
    confounding: Annotated[float, typer.Option(help="How strictly the marker follows the label at the source site, 0 to 1.")] = 1.0,
    scale: Annotated[int, typer.Option(help="Times as many images at the source site.", min=1)] = 1,
) -> None:
    """Draw the embedded phantom: one source site and three external ones, with masks and a contact sheet."""
    if out.exists() and any(out.iterdir()):
        raise InputError("the output folder is not empty; give a new one")
    written = write_phantom(out, seed, external_images, confounding, scale)
    write_contact_sheet(out, out / "contact_sheet.png", read_cxr)
    typer.echo(f"wrote {', '.join(path.name for path in written)} and contact_sheet.png")


app.add_typer(cli_research.app)
app.add_typer(cli_site.app)
app.add_typer(cli_manifest.app, name="manifest")
app.add_typer(benchmarks, name="benchmark")


@benchmarks.command()
def read(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched with its subfolders.")],
    image_size: Annotated[int, typer.Option(help="Pixels of a side after resizing.")] = 224,
    rounds: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 3,
    limit: Annotated[int, typer.Option(help="Number of files, drawn with a fixed seed.", min=1)] = 100,
) -> None:
    """Images a second of this package's chain and of MONAI's default chain, interleaved on the same files."""
    timing = benchmark.time_reading(folder, image_size, rounds, limit)
    table = Table("chain", "images", "images/s", title=f"one process, {image_size} px, median of {rounds} rounds")
    for line in benchmark.lines(timing):
        table.add_row(*line)
    Console().print(table)
    typer.echo(f"reading and decoding take {timing.codec_share:.0%} of our time")
    if timing.ratios:
        middle, low, high = statistics.median(timing.ratios), min(timing.ratios), max(timing.ratios)
        typer.echo(f"MONAI's chain takes {middle:.1f} times as long [{low:.1f}, {high:.1f}] on the files that it reads")


def main() -> None:
    """Run the command; whatever is refused is one sentence and its exit code."""
    # MONAI tries every reader it knows before ours and warns that a GPU decoder is absent.
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        # What was not refused by us or by click is raised again.
        reason = input_error(error)
        if reason is not None:
            typer.echo(f"sga-monai: {reason}", err=True)
            sys.exit(reason.exit_code)
        show = getattr(error, "show", None)
        if show is None:
            raise
        # A wrong command line; click's own exit code 2 means that rows failed here.
        show()
        sys.exit(EXIT_INPUT_REFUSED)
    sys.exit(code or 0)
