"""`sga-monai manifest`: build, check and key manifests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sga_monai import __version__
from sga_monai.core.checks import whole
from sga_monai.core.errors import EXIT_SOME_ROWS_FAILED, REASONS, InputError, first_of
from sga_monai.core.outputs import is_same, refuse_inputs, refuse_other_kind

if TYPE_CHECKING:
    from sga_monai.cohorts.inspection import Inspection
    from sga_monai.cohorts.listing import Listing

NAMES = (
    "siim", "shenzhen-tb", "montgomery-tb", "kermany-children", "nih-pa", "nih-ap",
    "hannover-nih", "cohen", "cohen-nih", "mixture", "nih-pneumonia", "cohen-pneumonia",
)  # fmt: skip
RULES = ("any_appearance", "typical_indeterminate", "typical_only", "opacity_box")
# Of the builders that have some, with their defaults.
OPTIONS: dict[str, dict[str, Any]] = {"siim": {"rule": RULES[0], "drop_unboxed_duplicates": False}, "mixture": {"strength": 1.0}}
MOST_PAIRS = 10
app = typer.Typer(no_args_is_help=True, help="Build, check and key manifests.")


@app.command()
def build(
    name: Annotated[str, typer.Argument(help=", ".join(NAMES) + ".")],
    root: Annotated[Path, typer.Argument(help="Folder that holds the collections; later the dataset_dir.")],
    out: Annotated[Path | None, typer.Option(help="The manifest; default below data_manifests/.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split and of sampled negatives.")] = 0,
    rule: Annotated[str | None, typer.Option(help="siim: " + ", ".join(RULES) + f"; {RULES[0]} without it.")] = None,
    drop_unboxed_duplicates: Annotated[bool, typer.Option(help="siim: drop images without box beside a boxed one.")] = False,
    strength: Annotated[
        float | None, typer.Option(help="mixture: how strictly the source follows the label, 0 to 1; 1 without it.")
    ] = None,
    all_test: Annotated[bool, typer.Option("--all-test", help="Every row is a test row, for an external site.")] = False,
) -> None:
    """Build the manifest of a public collection from its own tables and print an audit."""
    from sga_monai.cohorts import tables
    from sga_monai.cohorts.public import BUILDERS, default_name
    from sga_monai.cohorts.splits import audit
    from sga_monai.core.files import file_sha256, read_earlier, write_json
    from sga_monai.data.manifest_writer import refuse_other_file, replace_manifest

    if name not in BUILDERS:
        raise InputError(f"no builder {name!r}; there are {', '.join(BUILDERS)}")
    whole("seed", seed, low=0)
    given = {"rule": rule, "drop_unboxed_duplicates": drop_unboxed_duplicates or None, "strength": strength}
    defaults = OPTIONS.get(name, {})
    for option, value in given.items():
        if value is not None and option not in defaults:
            raise InputError(f"--{option.replace('_', '-')} is no option of {name}; leave it out")
    options = {option: default if given[option] is None else given[option] for option, default in defaults.items()}
    path = out or Path("data_manifests") / f"{default_name(name, all_test, strength)}.csv"
    record = path.with_suffix(".json")
    if record == path:
        raise InputError("--out must not end with .json, which is the record's name beside the manifest; give a name with .csv")
    if record.exists() and "builder" not in read_earlier(record):
        raise InputError(f"the record of the build would replace {record.name}, which is none; give another --out")
    refuse_other_file("--out", path)
    rows = BUILDERS[name](root, seed=seed, **options)
    if all_test:
        rows, options = tables.all_test(rows), options | {"all_test": True}
    replace_manifest(path, tables.kept_rows(rows))
    table = Table("", "value", "label 0", "label 1", title=f"{name}, seed {seed}")
    lines = audit(rows)
    for group, value, *counts in lines:
        table.add_row(group, value, *(str(count) for count in counts))
    Console().print(table)
    if name == "siim" and not any(root.glob("siim/train/*/*/*.dcm")):
        typer.echo("no DICOM files here, whose headers name the patient: the study is the unit of splitting")
    facts = {
        "builder": name,
        "seed": seed,
        **options,
        "sga_monai": __version__,
        "sha256": file_sha256(path),
        "audit": [list(line) for line in lines],
    }
    write_json(record, facts)
    typer.echo(f"wrote {path.name} and {record.name}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The manifest.")],
    dataset_dir: Annotated[Path, typer.Option(help="Folder that the column image is relative to.")],
    labels: Annotated[bool, typer.Option(help="Whether the manifest has labels, patients and splits.")] = True,
    voi: Annotated[str, typer.Option(help="dicom or none, as in the evaluation.")] = "dicom",
    num_workers: Annotated[int, typer.Option(help="Processes that read and decode.")] = 0,
    contact_sheet: Annotated[Path | None, typer.Option(help="Write a PNG of small pictures with row numbers.")] = None,
    shortcuts: Annotated[bool, typer.Option("--shortcuts", help="Read the label from frame and thumbnail, without a network.")] = False,
    pairs: Annotated[Path | None, typer.Option(help="Write a CSV of the rows that show the same picture.")] = None,
    accepted_pairs: Annotated[Path | None, typer.Option(help="Such a CSV, cut down to the pairs that are allowed.")] = None,
    orientation: Annotated[str, typer.Option(help="header or stored, as in the evaluation.")] = "header",
) -> None:
    """Read every image as an evaluation would; print the flow, what the files are, and what failed."""
    from sga_monai.cohorts.contact_sheet import is_contact_sheet, write_contact_sheet
    from sga_monai.cohorts.inspection import inspect_manifest, is_table_of_pairs, write_pairs

    for option, output in (("--contact-sheet", contact_sheet), ("--pairs", pairs)):
        refuse_inputs(option, output, (file, accepted_pairs))
        _refuse_images(option, output, file, dataset_dir, labels)
    refuse_other_kind("--contact-sheet", contact_sheet, is_contact_sheet, "contact sheet")
    refuse_other_kind("--pairs", pairs, is_table_of_pairs, "table of pairs")
    if pairs is not None and contact_sheet is not None and is_same(pairs, contact_sheet):
        raise InputError("--pairs and --contact-sheet are one file; give two")
    drawn = contact_sheet is not None
    found = inspect_manifest(file, dataset_dir, labels, voi, num_workers, drawn, shortcuts, accepted_pairs, orientation)
    _show_inspection(found, file.name)
    if pairs is not None:
        write_pairs(pairs, found.pairs)
        typer.echo(f"wrote {pairs.name}: {len(found.pairs)} pairs")
    if contact_sheet is not None:
        drawn_count = write_contact_sheet(contact_sheet, found.thumbnails)
        typer.echo(f"wrote {contact_sheet.name}: {drawn_count} pictures, none with BurnedInAnnotation YES")
    apart = [pair for pair in found.pairs if " and " in pair["splits"]]
    if apart:
        named = "; ".join(f"rows {pair['row']} and {pair['other_row']} ({pair['splits']})" for pair in apart[:MOST_PAIRS])
        raise InputError(f"the same picture is in two splits: {named}; remove one, or accept the pair with --accepted-pairs")
    if found.failures:
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


def _refuse_images(option: str, output: Path | None, file: Path, dataset_dir: Path, labels: bool) -> None:
    """Refuse an output that would replace an image or a lung mask of the manifest.

    Raises:
        InputError: without the file's name, which may be a patient's; see also ``read_manifest``.
    """
    from sga_monai.data.listed_files import on_disk
    from sga_monai.data.manifest import REQUIRED, read_manifest

    # Read here only where the output exists and can be one of them.
    if output is None or not output.is_file() or not output.resolve().is_relative_to(dataset_dir.resolve()):
        return
    rows = read_manifest(file, REQUIRED if labels else ("image",))
    for column, what in (("image", "an image"), ("lung_mask", "a lung_mask")):
        if any(row.get(column) and is_same(output, dataset_dir / on_disk(str(dataset_dir), row[column])) for row in rows):
            raise InputError(f"{option} would replace {what} of the manifest; give another path")


def _show_inspection(found: Inspection, title: str) -> None:
    """Print what was found, failures too: they may explain what is refused afterwards."""
    from sga_monai.cohorts.inspection import FACTS

    console = Console()
    table = Table("flow", "rows", "label 0", "label 1", title=title)
    for step, counts in found.flow.items():
        table.add_row(step, *(str(count) for count in counts))
    console.print(table)
    table = Table("DICOM keyword", "value", "images")
    for name, counter in found.facts.items():
        for value, count in counter.most_common():
            table.add_row(FACTS[name], value, str(count))
    console.print(table)
    if found.shortcuts:
        table = Table("label read from", "AUROC", "95 % CI", "images", "patients")
        for name, where in (("frame_only", "the outer 8 % of each side"), ("thumbnail", "20 x 20 pixels")):
            table.add_row(where, *_figures(found.shortcuts[name]))
        console.print(table)
        typer.echo("0.5 is chance; the more the frame tells, the more of a network's AUROC on this set may be a shortcut")
    for sentence in found.warnings:
        typer.echo(f"note: {sentence}")
    _show_pairs(console, found.pairs)
    if found.failures:
        table = Table("failed", "rows", "reason")
        for code in dict.fromkeys(code for _, code in found.failures):
            rows = [str(row) for row, reason in found.failures if reason == code]
            table.add_row(str(len(rows)), first_of(rows), f"{code}: {REASONS[code]}")
        console.print(table)


def _show_pairs(console: Console, pairs: list[dict[str, str]]) -> None:
    """The first pairs of rows that show the same picture."""
    if not pairs:
        return
    table = Table("rows", "bits of 256", "mirrored", "patients", "labels", "split", title=f"the same picture: {len(pairs)} pairs")
    for pair in pairs[:MOST_PAIRS]:
        rows = f"{pair['row']}, {pair['other_row']}"
        table.add_row(rows, *(pair[name] for name in ("bits", "mirrored", "patients", "labels", "splits")))
    if len(pairs) > MOST_PAIRS:
        table.add_row("...")
    console.print(table)


@app.command()
def key(out: Annotated[Path, typer.Argument(help="The new file; it stays at the site and is never sent.")]) -> None:
    """Make the site's key, with which patients are named in every output (option site_key)."""
    from sga_monai.data.pseudonyms import new_site_key

    new_site_key(out)
    typer.echo(f"wrote {out.name}, readable by you alone; keep it: another key gives every patient another name")


@app.command("from-dicom")
def from_dicom(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched with its subfolders; later the dataset_dir.")],
    labels: Annotated[Path, typer.Option(help="CSV: label and accession, patient_id or image; label_date, negative_type.")],
    site: Annotated[str, typer.Option(help="Name of the site in the manifest.")],
    site_key: Annotated[Path, typer.Option(help="File of `sga-monai manifest key`.")],
    out: Annotated[Path, typer.Option(help="The manifest.")],
) -> None:
    """Write a site's manifest from headers and labels; identifiers are joined and forgotten."""
    from sga_monai.cohorts.from_dicom import manifest_from_dicom
    from sga_monai.data.manifest_writer import refuse_other_file

    refuse_inputs("--out", out, (labels, site_key))
    refuse_other_file("--out", out)
    listing = manifest_from_dicom(folder, labels, site, site_key, out)
    show_listing(listing, out.name)
    if listing.one_sided:
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


def show_listing(listing: Listing, title: str) -> None:
    """Print what became of every file and of every label."""
    from sga_monai.cohorts.listing import LEFT_OUT

    table = Table("files", "number", "label 1", "label 0", "remedy", title=title)
    for name, counts in sorted(listing.files.items(), key=lambda item: (item[0] != "listed", item[0])):
        reason = name.removeprefix("left out: ")
        remedy = "" if name == "listed" else LEFT_OUT.get(reason) or REASONS.get(reason, "")
        table.add_row(name, *(str(count) for count in counts), remedy)
    Console().print(table)
    for name, (number, positive, negative) in listing.labels.items():
        typer.echo(f"{name}: {number} ({positive}+, {negative}-)")
    for what, number in listing.cells.items():
        if number:
            typer.echo(f"{number} rows: {what}")
    for sentence in listing.warnings:
        typer.echo(f"note: {sentence}")


@app.command()
def parts(
    file: Annotated[Path, typer.Argument(help="The manifest.")],
    dataset_dir: Annotated[Path, typer.Option(help="The folder that image and lung_mask are relative to.")],
    keep: Annotated[str, typer.Option(help="lungs, all else blank; outline, the mask alone; interior, without 8 % of each side.")],
    folder: Annotated[str, typer.Option(help="New folder below dataset_dir for the images.")],
    out: Annotated[Path, typer.Option(help="The new manifest.")],
    voi: Annotated[str, typer.Option(help="dicom or none, as in the training.")] = "dicom",
    orientation: Annotated[str, typer.Option(help="header or stored, as in the training.")] = "header",
) -> None:
    """Write the lungs, their outline or the interior of each image, and their manifest, to train and test without the rest."""
    from sga_monai.cohorts.parts import write_parts
    from sga_monai.data.manifest_writer import refuse_other_file
    from sga_monai.imaging.decoded import ReadOptions

    refuse_inputs("--out", out, (file,))
    refuse_other_file("--out", out)
    counts = write_parts(file, dataset_dir, keep, folder, out, ReadOptions(voi, orientation=orientation))
    for what, number in counts.items():
        typer.echo(f"{what}: {number}")
    typer.echo(f"wrote {folder}/ and {out.name}")
    if any(what.removeprefix("left out: ") in REASONS for what in counts):
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


def _figures(figure: dict[str, Any] | None) -> tuple[str, str, str, str]:
    """AUROC, interval, images and patients, "-" where not estimable."""
    if figure is None:
        return "-", "too few patients of a label", "-", "-"
    interval = "-" if math.isnan(figure["low"]) else f"[{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.3f}", interval, str(figure["n"]), str(figure["n_patients"])
