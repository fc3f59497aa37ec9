"""Commands of a hospital: verify, evaluate, report, release; and the pooling of what hospitals released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sga_monai.core.errors import EXIT_ALARM, EXIT_SOME_ROWS_FAILED, REASONS, InputError

app = typer.Typer()


@app.command()
def validate(
    bundle: Annotated[Path, typer.Argument(help="The unpacked bundle.")],
    images: Annotated[Path, typer.Option(help="Folder of the exported radiographs, searched with its subfolders.")],
    labels: Annotated[Path, typer.Option(help="CSV: label and accession, patient_id or image; label_date, negative_type.")],
    site: Annotated[str, typer.Option(help="Name of the site.")],
    out: Annotated[Path, typer.Option(help="Folder of everything that is written; it stays at the site.")],
    prevalence: Annotated[float | None, typer.Option(help="Of the population, for PPV, NPV and net benefit.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="The sender's public key, which came by another way.")] = None,
    site_key: Annotated[Path | None, typer.Option(help="File of `sga-monai manifest key`; default OUT/site.key, made when absent.")] = None,
    num_workers: Annotated[int, typer.Option(help="Processes that read and decode.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read headers only; say what would be done and how long it takes.")] = False,
) -> None:
    """Do the whole external validation, up to the report: verify, manifest, check, evaluate, report. Goes on after a stop."""
    from sga_monai.cli.manifest import show_listing
    from sga_monai.hospital.validate import STEPS, Site, Validation

    given = Site(bundle, images, labels, site, out, prevalence, public_key, site_key, num_workers)
    validation = Validation(given)
    for number, (name, what) in enumerate(STEPS, 1):
        typer.echo(f"{number}. {name}: {what}")
    typer.echo(f"all in {out.name}/; nothing leaves it\n")
    if dry_run:
        forecast = validation.forecast()
        show_listing(forecast.listing, f"{out.name}/site.csv")
        typer.echo(f"dry run: {forecast.images} images would be scored in about {max(round(forecast.minutes), 1)} min; nothing was written")
        if forecast.listing.one_sided:
            raise typer.Exit(EXIT_SOME_ROWS_FAILED)
        return
    typer.echo(f"1/{len(STEPS)} verify: {validation.verify()} files are what was packaged")
    listing = validation.write_manifest()
    show_listing(listing, f"2/{len(STEPS)} manifest: site.csv")
    checked = validation.check_images()
    readable, frontal = checked["flow"]["readable"][0], checked["flow"]["frontal"][0]
    typer.echo(f"3/{len(STEPS)} check: {checked['flow']['listed'][0]} listed, {readable} readable, {frontal} frontal")
    for code, rows in checked["failed"].items():
        typer.echo(f"   {len(rows)} failed: {code}: {REASONS[code]}")
    counts = validation.evaluate()
    typer.echo(f"4/{len(STEPS)} evaluate: {counts['scored']} scored, {counts['failed']} failed")
    outcome = validation.report(listing, checked)
    typer.echo(f"5/{len(STEPS)} report: {outcome.verdict['code']}: {outcome.verdict['text']}")
    for note in outcome.verdict["notes"]:
        typer.echo(f"   - {note}")
    typer.echo(f"open {outcome.page}; then, if it may leave: sga-monai release {out / 'evaluation'} --out release.json")
    if not outcome.complete:
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The unpacked bundle.")],
    public_key: Annotated[Path | None, typer.Option(help="The sender's public key, which came by another way.")] = None,
) -> None:
    """Check every file of a bundle before anything of it is parsed; then list what in it is more than data."""
    from sga_monai.hospital.verify import lint_bundle, verify_bundle, verify_signature

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
def selftest(bundle: Annotated[Path, typer.Argument(help="The unpacked bundle.")]) -> None:
    """Read and score the eight drawn files of a bundle, and compare with what its packaging found."""
    from sga_monai.hospital.evaluate import selftest_bundle
    from sga_monai.hospital.selftest import refuse_failures

    found = selftest_bundle(bundle)
    table = Table("transfer syntax", "image", "logits differ by", title=f"self-test of {bundle.name}")
    for comparison in found:
        table.add_row(comparison.syntax, "same" if comparison.image else "DIFFERENT", f"{comparison.difference:.1e}")
    Console().print(table)
    refuse_failures(found)
    typer.echo(f"{len(found)} of {len(found)} files are read and scored as they were where the model was packaged")


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
    from sga_monai.evaluation.results import render, summarize
    from sga_monai.hospital.evaluate import evaluate_bundle

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
    from sga_monai.hospital.html import write_html
    from sga_monai.hospital.report import make_report

    figures = make_report(output_dir, prevalence)
    page = write_html(figures, output_dir)
    verdict = figures["verdict"]
    typer.echo(f"{verdict['code']}: {verdict['text']}")
    for note in verdict["notes"]:
        typer.echo(f"- {note}")
    typer.echo(f"wrote {page.name} and report.json")


@app.command()
def monitor(
    evaluations: Annotated[
        list[Path], typer.Argument(help="Folders of `sga-monai evaluate`, the earliest first; or one, split by period.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of monitor.html and monitor.json; it stays at the site.")],
    run_length: Annotated[float, typer.Option(help="Unchanged, a false alarm is raised once in so many periods on average.")] = 200,
) -> None:
    """Compare periods at this site, and say with exit code 2 when something has changed."""
    from sga_monai.core.display import estimate_text
    from sga_monai.hospital.monitor import CHARTS, make_monitor
    from sga_monai.hospital.monitor_page import write_monitor_page

    content = make_monitor(evaluations, out, run_length)
    page = write_monitor_page(content, out)
    table = Table("period", "images", "n+", "AUROC", "alert rate", "O:E", "changed")
    for line in content["periods"]:
        figures = (line["auroc"], line["alert_rate"], line["observed_to_expected"])
        changed = ", ".join(CHARTS[name] for name, point in line["chart"].items() if point["alarm"])
        table.add_row(line["period"], str(line["images"]), str(line["positive_images"]), *map(estimate_text, figures), changed)
    Console().print(table)
    typer.echo(f"{content['status']['code']}: {content['status']['text']}")
    for note in content["notes"]:
        typer.echo(f"- {note}")
    typer.echo(f"wrote {page.name} and monitor.json")
    if content["status"]["code"] != "no alarm":
        raise typer.Exit(EXIT_ALARM)


@app.command()
def release(
    output_dir: Annotated[Path, typer.Argument(help="Folder of `sga-monai report`.")],
    out: Annotated[Path, typer.Option(help="The file that may leave.")],
    site: Annotated[str, typer.Option(help="Alias of the site.")] = "site",
    min_cell: Annotated[int, typer.Option(help="Smallest number of patients that is shown, at least 10.")] = 10,
) -> None:
    """Write the aggregates that may leave the site, and print every one of them."""
    from sga_monai.hospital.release import make_release, numbers

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
    from sga_monai.core.display import interval_text
    from sga_monai.hospital.pool import pool_releases

    pooled = pool_releases(releases, out)
    table = Table("model", "sites", "AUROC", "95 % CI", "I2")
    for key, model in pooled["models"].items():
        figure = model["pooled"]
        table.add_row(
            key, str(figure["n_sites"]), f"{figure['auroc']:.3f}", interval_text(figure["low"], figure["high"]), f"{figure['i2']:.0%}"
        )
    Console().print(table)
    typer.echo("wrote pooled.html and pooled.json")
