"""Commands for other systems of a hospital: studies from its archive, results back to it. They need the extra ``[dicom]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sga_monai.core.errors import EXIT_SOME_ROWS_FAILED, InputError

if TYPE_CHECKING:
    from sga_monai.integrations.pacs.accounting import Accounting
    from sga_monai.integrations.pacs.address import Dicomweb, Dimse
    from sga_monai.integrations.pacs.credentials import Tls

app = typer.Typer(no_args_is_help=True, help="Get studies from a PACS.")
results = typer.Typer()


@app.callback()
def pacs() -> None:
    """Get studies from a PACS."""


@app.command()
def pull(
    query: Annotated[Path, typer.Argument(help="CSV: label, and accession, or patient_id with date_from and date_to.")],
    out: Annotated[Path, typer.Option(help="Folder of images/, labels.csv, site.csv and accounting.csv; it stays at the site.")],
    site: Annotated[str, typer.Option(help="Name of the site in the manifest.")],
    dicomweb: Annotated[str | None, typer.Option(help="Address of the DICOMweb service, above /studies.")] = None,
    dimse: Annotated[str | None, typer.Option(help="Or HOST:PORT of the PACS.")] = None,
    called_aet: Annotated[str | None, typer.Option(help="With --dimse: AE title of the PACS.")] = None,
    calling_aet: Annotated[str, typer.Option(help="With --dimse: this computer's AE title, which the PACS must know.")] = "SGA",
    retrieve: Annotated[str, typer.Option(help="With --dimse: get (C-GET) or move (C-MOVE).")] = "get",
    listen: Annotated[str | None, typer.Option(help="With C-MOVE: PORT or HOST:PORT that the PACS sends to.")] = None,
    credentials: Annotated[
        Path | None, typer.Option(help="With --dicomweb: TOML of mode 600; default SGA_PACS_USER and SGA_PACS_PASSWORD, or SGA_PACS_TOKEN.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="With --dimse: encrypt; implied by --ca, --client-cert and --client-key.")] = False,
    ca: Annotated[Path | None, typer.Option(help="PEM of the authority that signed the server's certificate.")] = None,
    client_cert: Annotated[Path | None, typer.Option(help="Client certificate (PEM), if the server requires one.")] = None,
    client_key: Annotated[Path | None, typer.Option(help="PEM of its key, mode 600.")] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Allow http to another computer.")] = False,
    site_key: Annotated[Path | None, typer.Option(help="File of `sga-monai manifest key`; default OUT/site.key, made if absent.")] = None,
    workers: Annotated[int, typer.Option(help="Connections at once, 16 at most.")] = 4,
    attempts: Annotated[int, typer.Option(help="Number of times each request is tried, with growing pauses.")] = 6,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 60.0,
) -> None:
    """Fetch the frontal radiographs of a table of studies and write their manifest. Can be stopped and repeated."""
    from sga_monai.cli.manifest import show_listing
    from sga_monai.integrations.pacs.address import Dicomweb, Dimse
    from sga_monai.integrations.pacs.pull import MANIFEST, Order
    from sga_monai.integrations.pacs.pull import pull as pull_studies
    from sga_monai.integrations.pacs.retry import Retry

    certificates = _tls(ca, client_cert, client_key, tls and dimse is not None)
    server: Dicomweb | Dimse
    if (dicomweb is None) == (dimse is None):
        raise InputError("give --dicomweb or --dimse")
    if dicomweb is not None:
        if called_aet is not None or listen is not None:
            raise InputError("--called-aet and --listen belong to --dimse")
        server = Dicomweb.of(dicomweb, credentials, certificates, plain_http, timeout)
    else:
        if credentials is not None:
            raise InputError("DIMSE knows no user and password; the PACS knows this computer by --calling-aet, and by --client-cert")
        if called_aet is None:
            raise InputError("--dimse needs --called-aet, the AE title of the PACS")
        server = Dimse(str(dimse), called_aet, calling_aet, retrieve, listen, certificates, timeout)
    order = Order(query, out, site, site_key, workers, Retry(attempts))
    with server.connector() as connect:
        pulled = pull_studies(order, connect)
    _show_accounting(pulled.accounting)
    for sentence in pulled.warnings:
        typer.echo(f"note: {sentence}")
    if pulled.listing is not None:
        show_listing(pulled.listing, f"{out.name}/{MANIFEST}")
    typer.echo(f"wrote {out.name}/: accounting.csv says what became of every row; all of it stays at the site")
    if not pulled.complete:
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


@results.command("dicom-result")
def dicom_result(
    output_dir: Annotated[Path, typer.Argument(help="Folder of `sga-monai evaluate`.")],
    bundle: Annotated[Path, typer.Option(help="The bundle that it was evaluated with.")],
    manifest: Annotated[Path, typer.Option(help="The manifest that it was evaluated with.")],
    dataset_dir: Annotated[Path, typer.Option(help="Folder that the column image is relative to.")],
    out: Annotated[Path, typer.Option(help="New folder of the DICOM objects, which name the patients; it stays at the site.")],
    stow: Annotated[str | None, typer.Option(help="Address of a DICOMweb service that they are sent to.")] = None,
    credentials: Annotated[Path | None, typer.Option(help="See `sga-monai pacs pull`, also for the options that follow.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM of the authority.")] = None,
    client_cert: Annotated[Path | None, typer.Option(help="Client certificate (PEM).")] = None,
    client_key: Annotated[Path | None, typer.Option(help="PEM of its key, mode 600.")] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Allow http to another computer.")] = False,
) -> None:
    """Write each result as DICOM: a picture with its heat map and a structured report. For research, not for diagnosis."""
    from sga_monai.integrations.dicom_results.results import write_results
    from sga_monai.integrations.pacs.address import Dicomweb

    # Refused before minutes of work, not after.
    certificates = _tls(ca, client_cert, client_key, False)
    server = None if stow is None else Dicomweb.of(stow, credentials, certificates, plain_http)
    written = write_results(output_dir, bundle, manifest, dataset_dir, out)
    table = Table("images", "number", "remedy", title=f"{out.name}/")
    table.add_row("written, two objects each", str(len(written.rows)), "")
    for reason, number in written.left_out.items():
        table.add_row(f"left out: {reason}", str(number), written.remedy(reason))
    Console().print(table)
    failed = len(written.left_out)
    if server is not None:
        from sga_monai.integrations.dicom_results.send import send_files

        sent = send_files(server, out)
        typer.echo(f"sent {sent.stored} of {sent.stored + sent.failed} objects")
        failed += sent.failed
    if failed:
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


def _tls(ca: Path | None, certificate: Path | None, key: Path | None, always: bool) -> Tls | None:
    from sga_monai.integrations.pacs.credentials import Tls

    return Tls(ca, certificate, key) if always or ca or certificate or key else None


def _show_accounting(accounting: Accounting) -> None:
    """Print what became of every row and study, and of every object."""
    from sga_monai.integrations.pacs.accounting import remedy

    console = Console()
    table = Table("studies", "number", "label 1", "label 0", "remedy", title="rows of the query and studies")
    for result, counts in accounting.studies().items():
        table.add_row(result, *map(str, counts), remedy(result))
    console.print(table)
    table = Table("objects of CR and DX series", "number", "remedy")
    for outcome, number in sorted(accounting.objects().items()):
        table.add_row(outcome, str(number), remedy(outcome))
    if table.row_count:
        console.print(table)
