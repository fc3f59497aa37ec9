"""Commands of a hospital: validate and its steps, monitor, protocol."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sga_monai.core.errors import EXIT_ALARM, EXIT_SOME_ROWS_FAILED, REASONS, InputError
from sga_monai.core.outputs import refuse_inputs

app = typer.Typer()


@app.command()
def validate(
    bundle: Annotated[Path, typer.Argument(help="The unpacked bundle.")],
    images: Annotated[Path, typer.Option(help="Folder of the exported radiographs, searched with its subfolders.")],
    labels: Annotated[Path, typer.Option(help="CSV: label and accession, patient_id or image; label_date, negative_type.")],
    site: Annotated[str, typer.Option(help="Name of the site.")],
    out: Annotated[Path, typer.Option(help="Folder of everything that is written; it stays at the site.")],
    prevalence: Annotated[float | None, typer.Option(help="Prevalence where the model would be used, for PPV, NPV, net benefit.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="The sender's public key, obtained through another channel.")] = None,
    site_key: Annotated[Path | None, typer.Option(help="File of `sga-monai manifest key`; default OUT/site.key, made if absent.")] = None,
    num_workers: Annotated[int, typer.Option(help="Processes that read and decode.")] = 0,
    protocol: Annotated[Path | None, typer.Option(help="File of `sga-monai protocol`, written before the results.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read headers only; say what would be done and how long it takes.")] = False,
) -> None:
    """Do the whole external validation, up to the report: verify, manifest, check, evaluate, report. Can be stopped and repeated."""
    from sga_monai.cli.manifest import show_listing
    from sga_monai.core.process import keep_freed_memory
    from sga_monai.hospital.forecast import forecast
    from sga_monai.hospital.formats import EVALUATION
    from sga_monai.hospital.site import Site
    from sga_monai.hospital.validate import STEPS, Validation

    given = Site(bundle, images, labels, site, out, prevalence, public_key, site_key, num_workers, protocol)
    validation = Validation(given)
    for number, (name, what) in enumerate(STEPS, 1):
        typer.echo(f"{number}. {name}: {what}")
    typer.echo(f"all in {out.name}/; nothing leaves it\n")
    if dry_run:
        validation.verify()
        expected = forecast(given)
        show_listing(expected.listing, f"{out.name}/site.csv")
        typer.echo(f"dry run: {expected.images} images would be scored in about {max(round(expected.minutes), 1)} min; nothing was written")
        if expected.listing.one_sided:
            raise typer.Exit(EXIT_SOME_ROWS_FAILED)
        return
    keep_freed_memory()
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
    follow_up = shlex.join(["sga-monai", "release", str(out / EVALUATION), "--out", "release.json", "--site", "ALIAS"])
    may_leave = f"; then, if it may leave: {follow_up}" if outcome.verdict["code"] != "not reportable" else ""
    typer.echo(f"open {outcome.page}{may_leave}")
    if not outcome.complete:
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The unpacked bundle.")],
    public_key: Annotated[Path | None, typer.Option(help="The sender's public key, obtained through another channel.")] = None,
) -> None:
    """Check every file of a bundle before anything in it is parsed; then list the programs in its configurations."""
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
    """Score the bundle's eight synthetic radiographs and compare with the results stored when it was packaged."""
    from sga_monai.hospital.evaluate import selftest_bundle
    from sga_monai.hospital.selftest import refuse_failures
    from sga_monai.hospital.verify import verify_bundle

    verify_bundle(bundle)
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
    dataset_dir: Annotated[Path, typer.Option(help="Folder that the column image is relative to.")],
    output_dir: Annotated[Path, typer.Option(help="Where everything is written; it stays at the site.")],
    public_key: Annotated[Path | None, typer.Option(help="The sender's public key.")] = None,
    site_key: Annotated[Path | None, typer.Option(help="File of `sga-monai manifest key`.")] = None,
    failure_limit: Annotated[float, typer.Option(help="Share of failed images above which no AUROC is shown; one may fail.")] = 0.01,
    num_workers: Annotated[int, typer.Option(help="Processes that read and decode, while others are scored.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images that are scored at once.", min=1)] = 32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    protocol: Annotated[Path | None, typer.Option(help="File of `sga-monai protocol`; its hash and a copy are kept.")] = None,
) -> None:
    """Score a site's images with a bundle: offline, and without running code from the bundle."""
    from sga_monai.core.process import keep_freed_memory
    from sga_monai.evaluation.results import render, summarize
    from sga_monai.hospital.evaluate import evaluate_bundle

    keep_freed_memory()
    given = (bundle, manifest, dataset_dir, output_dir, public_key, site_key, failure_limit, num_workers)
    predictions = evaluate_bundle(*given, batch_size=batch_size, protocol=protocol, device=device)
    failed = int(predictions["score"].isna().sum())
    typer.echo(render(summarize(predictions, failure_limit=failure_limit)))
    typer.echo(f"{len(predictions)} rows: {len(predictions) - failed} scored, {failed} failed. Next: sga-monai report")
    if failed:
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


@app.command()
def report(
    output_dir: Annotated[
        Path | None, typer.Argument(help="Folder of `sga-monai evaluate`; with --scores the folder of the report, default: report.")
    ] = None,
    prevalence: Annotated[float | None, typer.Option(help="Prevalence where the model would be used, for PPV, NPV, net benefit.")] = None,
    protocol: Annotated[Path | None, typer.Option(help="File of `sga-monai protocol`; default: the one given to evaluate.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Table of any model: label, patient, score or probability; no images.")] = None,
    threshold: Annotated[float | None, typer.Option(help="With --scores: this score or probability, or more, is positive.")] = None,
    name: Annotated[str | None, typer.Option(help="With --scores: name of the model.")] = None,
    failure_limit: Annotated[float | None, typer.Option(help="With --scores: share of cases that may lack a score; default: 0.01.")] = None,
    cutoff: Annotated[float | None, typer.Option(help="With --scores: a reader's rating of this or more is positive.")] = None,
    imrmc: Annotated[Path | None, typer.Option(help="With --scores: new file of readers' ratings for the program iMRMC.")] = None,
    viewer_url: Annotated[str | None, typer.Option(help="Link of each error, as http://viewer/?file={image}; needs --manifest.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="The site's manifest, whose columns fill --viewer-url.")] = None,
) -> None:
    """Write report.html, report.json and errors.html for the hospital, from an evaluation or a table of scores."""
    from sga_monai.hospital.errors_page import viewer_links
    from sga_monai.hospital.html import write_html

    refuse_inputs("--imrmc", imrmc, (scores, protocol))
    if (viewer_url is None) != (manifest is None):
        raise InputError("--viewer-url and --manifest belong together: give both, or none")
    if scores is not None and viewer_url is not None:
        raise InputError("--viewer-url is for an evaluation; a table of scores has no images to open")
    viewer = None if viewer_url is None or manifest is None else viewer_links(viewer_url, manifest, output_dir)
    if scores is not None:
        from sga_monai.hospital.scores import ScoresReport, report_scores

        chosen: dict[str, Any] = {key: value for key, value in {"name": name, "failure_limit": failure_limit}.items() if value is not None}
        options = ScoresReport(prevalence=prevalence, threshold=threshold, protocol=protocol, cutoff=cutoff, imrmc=imrmc, **chosen)
        output_dir = output_dir or Path("report")
        figures = report_scores(scores, output_dir, options)
    else:
        from sga_monai.hospital.report import make_report

        if output_dir is None:
            raise InputError("give the folder of sga-monai evaluate, or a table with --scores")
        if output_dir.is_file():
            raise InputError(f"{output_dir.name} is no folder of sga-monai evaluate; a table of scores is given with --scores")
        if {threshold, name, failure_limit, cutoff, imrmc} != {None}:
            raise InputError("--threshold, --name, --failure-limit, --cutoff and --imrmc belong to --scores; an evaluation's are locked")
        figures = make_report(output_dir, prevalence, protocol)
    page = write_html(figures, output_dir, viewer)
    verdict = figures["verdict"]
    typer.echo(f"{verdict['code']}: {verdict['text']}")
    for sentence in figures["advice"]:
        typer.echo(sentence)
    for note in verdict["notes"]:
        typer.echo(f"- {note}")
    typer.echo(f"wrote {page.name} and report.json")


@app.command()
def monitor(
    evaluations: Annotated[
        list[Path], typer.Argument(help="Folders of `sga-monai evaluate`, the earliest first; or one, split by period.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of monitor.html and monitor.json; it stays at the site.")],
    run_length: Annotated[float, typer.Option(help="Average number of periods between false alarms if nothing changes.")] = 200,
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
def protocol(
    out: Annotated[Path, typer.Argument(help="The new JSON file; a page to read is written beside it.")],
    question: Annotated[str, typer.Option(help="The question that the validation is to answer.")],
    labels: Annotated[str, typer.Option(help="Who counts as positive, and who as negative.")],
    label_source: Annotated[str, typer.Option(help="How and when this is determined.")],
    prevalence: Annotated[float | None, typer.Option(help="Prevalence where the model would be used.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Threshold of a model given by its scores; a bundle has its own.")] = None,
    endpoint: Annotated[str, typer.Option(help="Primary endpoint: auroc, sensitivity, specificity, ...")] = "auroc",
    limit: Annotated[list[str] | None, typer.Option(help='Acceptance limit, such as "auroc>=0.80"; repeatable.')] = None,
    subgroup: Annotated[list[str] | None, typer.Option(help="Planned subgroup: sex, age, view, ...; repeatable.")] = None,
    expected_auroc: Annotated[float, typer.Option(help="AUROC assumed for the sample size.")] = 0.8,
    positive_share: Annotated[float | None, typer.Option(help="Of the cohort, for the sample size. Default: the prevalence.")] = None,
    half_width: Annotated[float, typer.Option(help="Desired half-width of the AUROC's 95 % interval.")] = 0.05,
    setting: Annotated[str | None, typer.Option(help="Where the patients are seen, such as: emergency department.")] = None,
    period: Annotated[str | None, typer.Option(help="When they are seen, such as: January to June 2026.")] = None,
) -> None:
    """Write down, before there are results, the question and what result would be enough."""
    from sga_monai.hospital.protocol import Plan, write_protocol

    texts = (question, labels, label_source)
    size_of = (expected_auroc, positive_share, half_width)
    plan = Plan(*texts, prevalence, threshold, endpoint, limit or (), subgroup or (), *size_of, setting, period)
    written = write_protocol(plan, out)
    size = written.content["sample_size"]
    table = Table("patients", "positive", "half-width of the AUROC's interval")
    for line in size["table"]:
        table.add_row(str(line["patients"]), str(line["positive"]), f"{line['half_width']:.3f}")
    Console().print(table)
    enough = "more than a million" if size["patients"] is None else size["patients"]
    typer.echo(f"patients for +/- {size['half_width']:g} at an AUROC of {size['expected_auroc']:g}: {enough}")
    typer.echo(f"wrote {out.name} and {out.with_suffix('.html').name}; SHA-256 {written.sha256}")
