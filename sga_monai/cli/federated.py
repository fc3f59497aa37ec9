"""Commands of a federation: many hospitals, one result, no image leaves. They need the extra ``[federated]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sga_monai.core.errors import EXIT_SOME_ROWS_FAILED, InputError

if TYPE_CHECKING:
    from sga_monai.integrations.federated.jobs import Job

app = typer.Typer(no_args_is_help=True, help="Evaluate or train at many hospitals without moving images.")
Simulate = Annotated[list[Path] | None, typer.Option(help="A site's file, to simulate it on this computer; once for each site.")]
Kit = Annotated[Path | None, typer.Option(help="Or your startup kit of a provisioned federation.")]
User = Annotated[str | None, typer.Option(help="With --kit: your name in the federation.")]
MinSites = Annotated[int, typer.Option(help="Fewer valid answers are no result.")]
Timeout = Annotated[int, typer.Option(help="Seconds after which a site is left out.")]
Expect = Annotated[list[str] | None, typer.Option(help="With --kit: a site to list even if it is not connected; repeatable.")]


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The unpacked bundle that every site has, too.")],
    out: Annotated[Path, typer.Option(help="Folder of pooled.html, pooled.json, sites.json and the releases.")],
    simulate: Simulate = None,
    kit: Kit = None,
    user: User = None,
    min_sites: MinSites = 2,
    timeout: Timeout = 86400,
    expect: Expect = None,
) -> None:
    """Ask every site for its release of one bundle, and pool them. Each site verifies and evaluates a bundle of its own."""
    from sga_monai.core.files import file_sha256
    from sga_monai.hospital.verify import SUMS, verify_bundle
    from sga_monai.integrations.federated.jobs import evaluation_job
    from sga_monai.integrations.federated.results import SITES
    from sga_monai.integrations.federated.runs import read_result, require_nvflare

    require_nvflare()
    verify_bundle(bundle)
    job = evaluation_job(file_sha256(bundle / SUMS), min_sites, timeout, expect or [])
    result: dict[str, Any] = read_result(_run(job, simulate, kit, user, out) / SITES)
    table = Table("site", "alias", "answer", "reason", title=f"{out.name}/")
    for line in result["sites"]:
        table.add_row(line["name"], line["alias"] or "", line["status"], line["reason"])
    Console().print(table)
    if result["not_pooled"]:
        raise InputError(f"nothing was pooled: {result['not_pooled']}")
    typer.echo("wrote pooled.html, pooled.json and sites.json")
    if result["valid"] < len(result["sites"]):
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of model.pt and rounds.json.")],
    simulate: Simulate = None,
    kit: Kit = None,
    user: User = None,
    rounds: Annotated[int, typer.Option(help="How often weights are averaged.")] = 10,
    local_epochs: Annotated[int, typer.Option(help="Epochs at each site in a round.")] = 1,
    image_size: Annotated[int, typer.Option(help="Pixels per side.")] = 224,
    batch_size: Annotated[int, typer.Option(help="Images per mini-batch.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of SGD with momentum.")] = 0.01,
    kl_weight: Annotated[float, typer.Option(help="0 is natural training.")] = 1.0,
    mask_fraction: Annotated[float, typer.Option(help="Share of the pixels that is masked.")] = 0.1,
    architecture: Annotated[str, typer.Option(help="resnet18, resnet50, densenet121 or resnet18_group_norm.")] = "resnet18",
    fed_bn: Annotated[bool, typer.Option("--fed-bn", help="BatchNorm stays at each site, and so does the model.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
    min_sites: MinSites = 2,
    timeout: Timeout = 86400,
    expect: Expect = None,
) -> None:
    """Train by SGA at every site and average the weights (FedAvg).

    In each round the weights, the number of training images and two AUROCs leave a site, after the last round one AUROC; no image.
    """
    from sga_monai.integrations.federated.runs import read_result, require_nvflare

    require_nvflare()
    from sga_monai.integrations.federated.jobs import training_job
    from sga_monai.integrations.federated.plan import TrainingPlan, plan_content
    from sga_monai.integrations.federated.results import ROUNDS

    given = (rounds, local_epochs, image_size, batch_size, learning_rate, kl_weight, mask_fraction, architecture, fed_bn, seed)
    job = training_job(plan_content(TrainingPlan(*given)), min_sites, timeout, expect or [])
    result: dict[str, Any] = read_result(_run(job, simulate, kit, user, out) / ROUNDS)
    columns = ("round", "site", "answer", "images", "share", "AUROC received", "AUROC trained", "reason")
    table = Table(*columns, title=f"{out.name}/: validation images of each site")
    complete = True
    for number, lines in [(str(line["round"]), line["sites"]) for line in result["rounds"]] + [("final", result["final"])]:
        total = sum(line.get("images", 0) for line in lines)
        for line in lines:
            # A site's number of images is its own statement, and its weight in the mean.
            share = f"{line['images'] / total:.0%}" if "images" in line else ""
            figures = (str(line.get(key, "")) for key in ("val_auroc_received", "val_auroc_trained"))
            table.add_row(number, line["name"], line["status"], str(line.get("images", "")), share, *figures, line["reason"])
            complete &= line["status"] == "valid"
    Console().print(table)
    if result["stopped"]:
        raise InputError(f"training stopped: {result['stopped']}")
    typer.echo(
        "each site has its own model.pt; wrote rounds.json" if fed_bn else "wrote model.pt and rounds.json; each site has model.pt, too"
    )
    if not complete:
        raise typer.Exit(EXIT_SOME_ROWS_FAILED)


@app.command()
def prepare(
    kit: Annotated[Path, typer.Argument(help="Startup kit of a site or of the server, as NVFlare provisioned it.")],
    site_file: Annotated[Path | None, typer.Option(help="The site's file; leave it out for the server.")] = None,
) -> None:
    """At a site, or at the server: allow only this package's classes in a startup kit, forbid code of jobs, put the site's file into it."""
    from sga_monai.integrations.federated.runs import require_nvflare

    require_nvflare()
    from sga_monai.integrations.federated.kit import prepare_kit

    typer.echo(f"wrote {', '.join(prepare_kit(kit, site_file))} to {kit.name}/local; start the kit again")


def _run(job: Job, simulate: list[Path] | None, kit: Path | None, user: str | None, out: Path) -> Path:
    """Run a job in the simulator or at the server."""
    from sga_monai.core.process import end_on_sigterm
    from sga_monai.integrations.federated import runs

    if bool(simulate) == bool(kit):
        raise InputError("give --simulate for each site's file, or --kit and --user")
    if simulate:
        end_on_sigterm("the same command begins anew")
        return runs.simulate(job, simulate, out)
    if kit is None or user is None:
        raise InputError("--kit needs --user, your name in the federation")
    end_on_sigterm("a job that was submitted goes on at the server")
    return runs.submit(job, kit, user, out)
