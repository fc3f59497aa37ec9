"""``sga-monai phantom``: draw the embedded phantom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sga_monai.core.errors import InputError


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder for images, masks and manifests; later the dataset_dir.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    external_images: Annotated[int, typer.Option(help="Images of each external site, even.")] = 60,
    confounding: Annotated[float, typer.Option(help="How strictly the marker follows the label at the source site, 0 to 1.")] = 1.0,
    scale: Annotated[int, typer.Option(help="Multiplies the number of images at the source site.", min=1)] = 1,
) -> None:
    """Draw the embedded phantom: one source site and three external ones, with masks and a contact sheet."""
    from sga_monai.cohorts.phantom import draw_phantom, write_phantom
    from sga_monai.imaging.read import read_cxr

    if out.exists() and any(out.iterdir()):
        raise InputError("the output folder is not empty; give a new one")
    written = write_phantom(out, seed, external_images, confounding, scale)
    draw_phantom(out, out / "contact_sheet.png", read_cxr)
    typer.echo(f"wrote {', '.join(path.name for path in written)} and contact_sheet.png")
