"""The command ``sga-monai``: the phantom and manifests. Training and evaluation are MONAI bundles."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sga_monai import __version__, sources
from sga_monai.errors import InputError
from sga_monai.manifest import read_manifest, write_manifest
from sga_monai.phantom import write_contact_sheet, write_phantom
from sga_monai.reader import read_cxr

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
manifests = typer.Typer(no_args_is_help=True, help="Build manifests.")
app.add_typer(manifests, name="manifest")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder for images, masks and manifests; later the dataset_dir.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    external_images: Annotated[int, typer.Option(help="Images of each external site, even.")] = 60,
) -> None:
    """Draw the embedded phantom: one source site and three external ones, with masks and a contact sheet."""
    if out.exists() and any(out.iterdir()):
        raise InputError("the output folder is not empty; give a new one")
    written = write_phantom(out, seed, external_images)
    write_contact_sheet(out, out / "contact_sheet.png", read_cxr)
    typer.echo(f"wrote {', '.join(path.name for path in written)} and contact_sheet.png")


@manifests.command()
def build(
    name: Annotated[str, typer.Argument(help="hannover-nih, cohen-nih, cohen or siim.")],
    root: Annotated[Path, typer.Argument(help="Folder that holds the collections; later the dataset_dir.")],
    out: Annotated[Path | None, typer.Option(help="The manifest; default data_manifests/<name>.csv.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split and of sampled negatives.")] = 0,
    rule: Annotated[str, typer.Option(help="SIIM: " + ", ".join(sources.SIIM_RULES) + ".")] = "any_appearance",
    drop_unboxed_duplicates: Annotated[bool, typer.Option(help="SIIM: drop images without box beside a boxed one.")] = False,
) -> None:
    """Build the manifest of a public collection from its own tables and print an audit."""
    if name not in sources.BUILDERS:
        raise InputError(f"no builder {name!r}; there are {', '.join(sources.BUILDERS)}")
    options = {"rule": rule, "drop_unboxed_duplicates": drop_unboxed_duplicates} if name == "siim" else {}
    rows = sources.BUILDERS[name](root, seed=seed, **options)
    path = out or Path("data_manifests") / f"{name.replace('-', '_')}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Checked before it takes the place of an earlier one.
    draft = path.with_name(f".{path.name}.tmp")
    try:
        write_manifest(draft, [row for row in rows if not row["dropped"]])
        read_manifest(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    table = Table("", "value", "label 0", "label 1", title=f"{name}, seed {seed}")
    lines = sources.audit(rows)
    for group, value, *counts in lines:
        table.add_row(group, value, *(str(count) for count in counts))
    Console().print(table)
    if name == "siim" and not any(root.glob("siim/train/*/*/*.dcm")):
        typer.echo("no SIIM images here: the study is the unit of splitting; build again beside the images, whose headers name the patient")
    facts = {
        "builder": name,
        "seed": seed,
        **options,
        "sga_monai": __version__,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "audit": [list(line) for line in lines],
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    typer.echo(f"wrote {path.name} and {path.with_suffix('.json').name}")


def main() -> None:
    """Run the command; refused input is one sentence and its exit code."""
    try:
        app()
    except InputError as error:
        typer.echo(f"sga-monai: {error}", err=True)
        sys.exit(error.exit_code)
