"""The command ``sga-monai``: phantom, manifests, experiments, audits, bundles for hospitals. Training is a MONAI bundle."""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sga_monai import __version__, benchmark, mixture, sources
from sga_monai.audit import audit_checkpoint
from sga_monai.audit import render as render_audit
from sga_monai.collect import collect_experiment, render_text, write_page
from sga_monai.errors import EXIT_INPUT_REFUSED, EXIT_INTERRUPTED, EXIT_SOME_ROWS_FAILED, REASONS, InputError, input_error
from sga_monai.experiment import is_finished, run_experiment
from sga_monai.explain import explain_checkpoints
from sga_monai.explain import render as render_saliency
from sga_monai.external import evaluate_bundle
from sga_monai.from_dicom import manifest_from_dicom
from sga_monai.inspection import FACTS, inspect_manifest, write_contact_sheet
from sga_monai.manifest import read_manifest, write_manifest
from sga_monai.package import package_bundle
from sga_monai.phantom import write_contact_sheet as draw_sites
from sga_monai.phantom import write_phantom
from sga_monai.plan import read_plan
from sga_monai.pool import pool_releases
from sga_monai.reader import read_cxr
from sga_monai.release import MIN_CELL, make_release, numbers
from sga_monai.report import make_report
from sga_monai.report_html import write_html
from sga_monai.results import render, summarize
from sga_monai.site_key import new_site_key
from sga_monai.verify import lint_bundle, verify_bundle, verify_signature

BUILDERS = sources.BUILDERS | mixture.BUILDERS
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
manifests = typer.Typer(no_args_is_help=True, help="Build, check and key manifests.")
benchmarks = typer.Typer(no_args_is_help=True, help="Measure this machine.")
app.add_typer(manifests, name="manifest")
app.add_typer(benchmarks, name="benchmark")


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
    draw_sites(out, out / "contact_sheet.png", read_cxr)
    typer.echo(f"wrote {', '.join(path.name for path in written)} and contact_sheet.png")


@manifests.command()
def build(
    name: Annotated[str, typer.Argument(help=", ".join(BUILDERS) + ".")],
    root: Annotated[Path, typer.Argument(help="Folder that holds the collections; later the dataset_dir.")],
    out: Annotated[Path | None, typer.Option(help="The manifest; default data_manifests/<name>.csv.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split and of sampled negatives.")] = 0,
    rule: Annotated[str, typer.Option(help="SIIM: " + ", ".join(sources.SIIM_RULES) + ".")] = "any_appearance",
    drop_unboxed_duplicates: Annotated[bool, typer.Option(help="SIIM: drop images without box beside a boxed one.")] = False,
    strength: Annotated[float, typer.Option(help="mixture: how strictly the source follows the label, 0 to 1.")] = 1.0,
) -> None:
    """Build the manifest of a public collection from its own tables and print an audit."""
    if name not in BUILDERS:
        raise InputError(f"no builder {name!r}; there are {', '.join(BUILDERS)}")
    options: dict[str, Any] = {"rule": rule, "drop_unboxed_duplicates": drop_unboxed_duplicates} if name == "siim" else {}
    file = name.replace("-", "_")
    if name == "mixture":
        options, file = {"strength": strength}, f"mixture_r{round(100 * strength):03d}"
    rows = BUILDERS[name](root, seed=seed, **options)
    path = out or Path("data_manifests") / f"{file}.csv"
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


@manifests.command()
def check(
    file: Annotated[Path, typer.Argument(help="The manifest.")],
    dataset_dir: Annotated[Path, typer.Option(help="The folder that image is relative to.")],
    labels: Annotated[bool, typer.Option(help="Whether the manifest has labels, patients and splits.")] = True,
    voi: Annotated[str, typer.Option(help="dicom or none, as in the evaluation.")] = "dicom",
    num_workers: Annotated[int, typer.Option(help="Processes that read and decode.")] = 0,
    contact_sheet: Annotated[Path | None, typer.Option(help="Write a PNG of small pictures with row numbers.")] = None,
) -> None:
    """Read every image as an evaluation would; print the flow, what the files are, and what failed."""
    found = inspect_manifest(file, dataset_dir, labels, voi, num_workers, thumbnails=contact_sheet is not None)
    console = Console()
    table = Table("flow", "rows", "label 0", "label 1", title=file.name)
    for step, counts in found.flow.items():
        table.add_row(step, *(str(count) for count in counts))
    console.print(table)
    table = Table("DICOM keyword", "value", "images")
    for name, counter in found.facts.items():
        for value, count in counter.most_common():
            table.add_row(FACTS[name], value, str(count))
    console.print(table)
    if contact_sheet is not None:
        drawn_count = write_contact_sheet(contact_sheet, found.thumbnails)
        typer.echo(f"wrote {contact_sheet.name}: {drawn_count} pictures, none with BurnedInAnnotation YES")
    if found.failures:
        table = Table("failed", "rows", "reason")
        for code in dict.fromkeys(code for _, code in found.failures):
            rows = [str(row) for row, reason in found.failures if reason == code]
            listed = ", ".join(rows[:5]) + (", ..." if len(rows) > 5 else "")
            table.add_row(str(len(rows)), listed, f"{code}: {REASONS[code]}")
        console.print(table)
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


@manifests.command()
def key(out: Annotated[Path, typer.Argument(help="The new file; it stays at the site and is never sent.")]) -> None:
    """Make the site's key, with which patients are named in every output (option site_key)."""
    new_site_key(out)
    typer.echo(f"wrote {out.name}, readable by you alone; keep it: another key gives every patient another name")


@manifests.command("from-dicom")
def from_dicom(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched with its subfolders; later the dataset_dir.")],
    labels: Annotated[Path, typer.Option(help="CSV: label and accession, patient_id or image; label_date, negative_type.")],
    site: Annotated[str, typer.Option(help="Name of the site in the manifest.")],
    site_key: Annotated[Path, typer.Option(help="File of `sga-monai manifest key`.")],
    out: Annotated[Path, typer.Option(help="The manifest.")],
) -> None:
    """Write a site's manifest from headers and labels; identifiers are joined and forgotten."""
    counts = manifest_from_dicom(folder, labels, site, site_key, out)
    table = Table("files", "number", title=out.name)
    for name, count in sorted(counts.items(), key=lambda item: item[0] != "listed"):
        table.add_row(name, str(count))
    Console().print(table)


@app.command()
def experiment(
    plan: Annotated[Path, typer.Argument(help="JSON of bundles/sga/experiments/.")],
    output_dir: Annotated[Path | None, typer.Option(help="Default runs/<plan>. The same command goes on where it was stopped.")] = None,
    dataset_dir: Annotated[str | None, typer.Option(help="The folder of the collections, where it is not the plan's.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at once; each gets its share of the cores.", min=1)] = 1,
    reuse: Annotated[list[Path] | None, typer.Option(help="Other experiment whose equal cells are copied; repeatable.")] = None,
) -> None:
    """Run a plan, methods x conditions x seeds, and collect it: records, tables, comparison with the baseline."""
    settings = {} if dataset_dir is None else {"dataset_dir": dataset_dir}
    read, out = read_plan(plan, **settings), output_dir or Path("runs") / plan.stem
    failed = run_experiment(read, out, jobs, reuse or ())
    if any(is_finished(out / cell.folder) for cell in read.cells):
        typer.echo(render_text(collect_experiment(read, out)))
        typer.echo(f"wrote records.jsonl, results.csv, results.md and results.html in {out.name}/")
    if failed:
        for line in failed:
            typer.echo(f"failed: {line}", err=True)
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


@app.command()
def collect(
    runs: Annotated[list[Path], typer.Argument(help="Folders of sga-monai experiment, or records.jsonl files.")],
    out: Annotated[Path, typer.Option(help="Folder of README.md, its figures and one records file for each experiment.")],
) -> None:
    """Put several experiments on one page, README.md, with the records that it is made of."""
    names = write_page(runs, out)
    typer.echo(f"wrote README.md with {', '.join(names)} in {out.name}/")


@app.command()
def explain(
    checkpoint: Annotated[list[str], typer.Argument(help="NAME=model.pt of each model, or model.pt alone.")],
    manifest: Annotated[Path, typer.Option(help="The images; lung_mask and boxes are regions.")],
    dataset_dir: Annotated[Path, typer.Option(help="The folder that image is relative to.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of saliency.csv, cases.png and tensorboard/.")],
    region: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER below dataset_dir, a PNG for each image; repeatable.")] = None,
    split: Annotated[str, typer.Option(help="Rows of this split.")] = "test",
    image_size: Annotated[int | None, typer.Option(help="Pixels of a side; default as trained.")] = None,
    n_cases: Annotated[int, typer.Option(help="Cases in the picture.", min=2)] = 6,
    limit: Annotated[int, typer.Option(help="Number of images, evenly spaced.", min=1)] = 200,
) -> None:
    """Show where models look, side by side on the same cases, and measure it against lungs, boxes and other regions."""
    pairs = [text.partition("=") if "=" in text else (Path(text).parent.name or "model", "=", text) for text in checkpoint]
    models = {name: path for name, _, path in pairs}
    if len(models) < len(checkpoint):
        raise InputError("two models have the same name; give NAME=model.pt for each")
    if any("=" not in text for text in region or ()):
        raise InputError("a region is NAME=FOLDER, as marker=masks/marker/northgate")
    regions = dict(text.split("=", 1) for text in region or ())
    table = explain_checkpoints(models, manifest, dataset_dir, output_dir, regions, split, image_size, None, n_cases, limit)
    typer.echo(render_saliency(table))
    typer.echo(f"wrote saliency.csv, saliency.json, cases.png and tensorboard/ in {output_dir.name}/")


@app.command()
def audit(
    checkpoint: Annotated[Path, typer.Argument(help="model.pt of a training.")],
    manifest: Annotated[list[Path], typer.Option(help="Manifest of a site; may be repeated.")],
    dataset_dir: Annotated[Path, typer.Option(help="The folder that image and lung_mask are relative to.")],
    output_dir: Annotated[Path, typer.Option(help="Where audit.json, audit.csv and tensorboard/ are written.")],
    image_size: Annotated[int | None, typer.Option(help="Pixels of a side; default as trained.")] = None,
    voi: Annotated[str | None, typer.Option(help="dicom or none; default as trained.")] = None,
    split: Annotated[str, typer.Option(help="The rows that are taken.")] = "test",
    num_workers: Annotated[int, typer.Option(help="Processes that read and decode.")] = 0,
) -> None:
    """Find shortcuts: score every site with lungs or border taken away and a marker put in, and probe for the site."""
    table = audit_checkpoint(checkpoint, manifest, dataset_dir, output_dir, image_size, voi, split, num_workers)
    typer.echo(render_audit(table))
    typer.echo(f"wrote audit.json, audit.csv and tensorboard/ in {output_dir.name}/")


@app.command()
def package(
    checkpoint: Annotated[Path, typer.Option(help="model.pt of a finished training.")],
    out: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("dist"),
    nt_checkpoint: Annotated[Path | None, typer.Option(help="model.pt of natural training on the same manifest.")] = None,
    site_manifest: Annotated[list[Path] | None, typer.Option(help="Manifest of a known site; may be repeated.")] = None,
    source: Annotated[Path, typer.Option(help="The flat source bundle.")] = Path("bundles/sga"),
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "sga_cxr",
) -> None:
    """Make a bundle for hospitals from a finished training: folder and zip, with reference and checksums."""
    folder = package_bundle(checkpoint, out, source, nt_checkpoint, site_manifest or (), name)
    typer.echo(f"wrote {folder.name}/ and {folder.name}.zip")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The unpacked bundle.")],
    public_key: Annotated[Path | None, typer.Option(help="The sender's public key, which came by another way.")] = None,
) -> None:
    """Check every file of a bundle before anything of it is parsed; then list what in it is more than data."""
    count = verify_bundle(bundle)
    if public_key is None:
        typer.echo(f"{count} files are what was packaged. Integrity only, not origin: no signature was checked")
    else:
        verify_signature(bundle, public_key)
        typer.echo(f"{count} files are what was packaged, and signed with this key")
    lint = lint_bundle(bundle)
    typer.echo(f"{len(lint.expressions)} expressions that `monai.bundle run` would evaluate; sga-monai evaluate runs none of them:")
    for line in lint.expressions:
        typer.echo(f"  {line}")
    if lint.foreign or lint.code:
        for line in (*lint.foreign, *lint.code):
            typer.echo(f"  foreign: {line}")
        raise InputError("the bundle names code outside monai, torch, ignite and sga_monai, or holds code; do not use it")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The unpacked bundle.")],
    manifest: Annotated[Path, typer.Option(help="The site's manifest.")],
    dataset_dir: Annotated[Path, typer.Option(help="The folder that image is relative to.")],
    output_dir: Annotated[Path, typer.Option(help="Where everything is written; it stays at the site.")],
    public_key: Annotated[Path | None, typer.Option(help="The sender's public key.")] = None,
    site_key: Annotated[Path | None, typer.Option(help="File of `sga-monai manifest key`.")] = None,
    failure_limit: Annotated[float, typer.Option(help="Share of failed images above which there is no headline figure.")] = 0.01,
    num_workers: Annotated[int, typer.Option(help="Processes that read and decode.")] = 0,
) -> None:
    """Score a site's images with a bundle: offline, and without running anything of the bundle."""
    predictions = evaluate_bundle(bundle, manifest, dataset_dir, output_dir, public_key, site_key, failure_limit, num_workers)
    failed = int(predictions["score"].isna().sum())
    typer.echo(render(summarize(predictions, failure_limit=failure_limit)))
    typer.echo(f"{len(predictions)} rows: {len(predictions) - failed} scored, {failed} failed. Next: sga-monai report")
    if failed:
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


@app.command()
def report(
    output_dir: Annotated[Path, typer.Argument(help="Folder of `sga-monai evaluate`.")],
    prevalence: Annotated[float | None, typer.Option(help="Of the population, for PPV, NPV and net benefit.")] = None,
) -> None:
    """Write report.html and report.json for the hospital."""
    figures = make_report(output_dir, prevalence)
    page = write_html(figures, output_dir)
    verdict = figures["verdict"]
    typer.echo(f"{verdict['code']}: {verdict['text']}")
    for note in verdict["notes"]:
        typer.echo(f"- {note}")
    typer.echo(f"wrote {page.name} and report.json")


@app.command()
def release(
    output_dir: Annotated[Path, typer.Argument(help="Folder of `sga-monai report`.")],
    out: Annotated[Path, typer.Option(help="The file that may leave.")],
    site: Annotated[str, typer.Option(help="Alias of the site.")] = "site",
    min_cell: Annotated[int, typer.Option(help="Smallest number of patients that is shown, at least 10.")] = MIN_CELL,
) -> None:
    """Write the aggregates that may leave the site, and print every one of them."""
    content = make_release(output_dir, out, site, min_cell)
    for place, value in numbers(content):
        typer.echo(f"{place}: {value}")
    typer.echo(f"wrote {out.name}; this is all that leaves")


@app.command()
def pool(
    releases: Annotated[list[Path], typer.Argument(help="release.json of each site.")],
    out: Annotated[Path, typer.Option(help="Folder of pooled.html and pooled.json.")],
) -> None:
    """Pool the sites' releases: random effects, heterogeneity, forest plot."""
    pooled = pool_releases(releases, out)
    table = Table("model", "sites", "AUROC", "95 % CI", "I2")
    for key, model in pooled["models"].items():
        figure = model["pooled"]
        table.add_row(
            key, str(figure["n_sites"]), f"{figure['auroc']:.3f}", f"[{figure['low']:.3f}, {figure['high']:.3f}]", f"{figure['i2']:.0%}"
        )
    Console().print(table)
    typer.echo("wrote pooled.html and pooled.json")


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
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
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
