"""Commands for what leaves a hospital, and for the pooling of what hospitals released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sga_monai.core.errors import InputError
from sga_monai.core.outputs import refuse_inputs

app = typer.Typer()


@app.command()
def release(
    output_dir: Annotated[Path, typer.Argument(help="Folder of `sga-monai report`.")],
    out: Annotated[Path, typer.Option(help="The file that may leave.")],
    site: Annotated[str, typer.Option(help="Alias of the site.")] = "site",
    min_cell: Annotated[int, typer.Option(help="Smallest number of patients that is shown, at least 10.")] = 10,
    approved_by: Annotated[
        str | None, typer.Option(help="Who has read what the same command printed without this option, and approves it.")
    ] = None,
) -> None:
    """Write the aggregates that may leave the site, and print every one of them; with --approved-by record the approval."""
    from sga_monai.hospital.approval import FIELD
    from sga_monai.hospital.release import make_release, numbers

    _refuse_no_release(out)
    content = make_release(output_dir, out, site, min_cell, approved_by)
    for place, value in numbers(content):
        typer.echo(f"{place}: {value}")
    typer.echo(f"wrote {out.name}; this is all that leaves")
    if FIELD not in content:
        typer.echo(
            "sensitivity and specificity with the class counts give the numbers of right and wrong calls, which may be below "
            f"{content['min_cell']}; an earlier release of fewer patients gives the new ones"
        )
        typer.echo("not approved yet: read it, then give the same command with --approved-by")


def _refuse_no_release(path: Path) -> None:
    """Refuse to replace a file that is no release: a slip of the keyboard must not cost a site its key.

    Raises:
        InputError: naming the file.
    """
    from sga_monai.core.files import read_earlier
    from sga_monai.hospital.formats import RELEASE

    # A release of an earlier version may be replaced too.
    kind = RELEASE.rpartition(" ")[0]
    if path.is_file() and str(read_earlier(path).get("schema", "")).rpartition(" ")[0] != kind:
        raise InputError(f"--out would replace {path.name}, which is no release; give another path")


@app.command()
def pool(
    releases: Annotated[list[Path], typer.Argument(help="release.json of each site.")],
    out: Annotated[Path, typer.Option(help="Folder of pooled.html and pooled.json.")],
    require_approval: Annotated[bool, typer.Option("--require-approval", help="Refuse a release without a recorded approval.")] = False,
) -> None:
    """Pool the sites' releases: random effects, heterogeneity, forest plot; approvals are checked."""
    from sga_monai.core.display import interval_text
    from sga_monai.hospital.pool import pool_releases

    for file in ("pooled.html", "pooled.json"):
        refuse_inputs("--out", out / file, releases)
    pooled = pool_releases(releases, out, require_approval)
    table = Table("model", "sites", "AUROC", "95 % CI", "I2")
    for key, model in pooled["models"].items():
        figure = model["pooled"]
        table.add_row(
            key, str(figure["n_sites"]), f"{figure['auroc']:.3f}", interval_text(figure["low"], figure["high"]), f"{figure['i2']:.0%}"
        )
    Console().print(table)
    for line in pooled["left_out"]:
        typer.echo(f"{line['site']} is not in the pooled AUROC of the {line['model']}: {line['reason']}")
    for line in pooled["approvals"]:
        if line["approval"] is None:
            typer.echo(f"no approval is recorded in the release of {line['site']}")
    typer.echo("wrote pooled.html and pooled.json")
