"""Commands of researchers: experiments, saliency, the shortcut audit, and the bundle that hospitals receive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sga_monai.core.errors import EXIT_SOME_ROWS_FAILED, InputError

app = typer.Typer()


@app.command()
def experiment(
    plan: Annotated[Path, typer.Argument(help="JSON file; the plans in bundles/sga/experiments/ are found from any folder.")],
    output_dir: Annotated[Path | None, typer.Option(help="Default: runs/<plan>. The same command continues what was stopped.")] = None,
    dataset_dir: Annotated[str | None, typer.Option(help="Folder of the collections, if not the one in the plan.")] = None,
    cache_dir: Annotated[str | None, typer.Option(help="Folder of prepared images: each is decoded once, not in every cell.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at once. Default: 1; on a cluster, as many as have room.", min=1)] = None,
    reuse: Annotated[list[Path] | None, typer.Option(help="Experiments whose cells of equal settings are copied; repeatable.")] = None,
    launcher: Annotated[str, typer.Option(help="local, ray or slurm: where to run; docs/scaling.md.")] = "local",
    cpus: Annotated[
        int | None, typer.Option(help="Cores per run. Default: an equal share of those given to the command; on a cluster, 1.", min=1)
    ] = None,
    gpu: Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="One GPU per run, or none. Default: one if there is any.")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(help="Slurm: another option, as --sbatch=--partition=gpu; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Slurm: write the array's script and submit nothing.")] = False,
    tracking: Annotated[str | None, typer.Option(help="mlflow, or a file of MONAI's tracking settings: each run is tracked too.")] = None,
) -> None:
    """Run a plan, methods x conditions x seeds, and collect it: records, tables, comparison with the baseline."""
    from sga_monai.core.folders import is_finished
    from sga_monai.core.process import end_on_sigterm
    from sga_monai.experiments.launchers import launcher_of
    from sga_monai.experiments.pages import collect_experiment
    from sga_monai.experiments.plan import read_plan
    from sga_monai.experiments.runner import run_experiment
    from sga_monai.experiments.tables import render_text

    end_on_sigterm("the same command goes on")
    given = {"dataset_dir": dataset_dir, "cache_dir": cache_dir, "tracking": tracking}
    chosen = launcher_of(launcher, jobs, cpus, gpu, sbatch or (), dry_run)
    settings = {key: folder for key, folder in given.items() if folder is not None}
    read, out = read_plan(plan, **settings), output_dir or Path("runs") / plan.stem
    failed = run_experiment(read, out, chosen, reuse or ())
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
    """Put several experiments on one page, README.md, next to the records that it is computed from."""
    from sga_monai.experiments.pages import write_page

    names = write_page(runs, out)
    typer.echo(f"wrote README.md with {', '.join(names)} in {out.name}/")


@app.command()
def explain(
    checkpoint: Annotated[list[str], typer.Argument(help="NAME=model.pt of each model, repeated for its seeds; or model.pt alone.")],
    manifest: Annotated[Path, typer.Option(help="The images; lung_mask and boxes are regions.")],
    dataset_dir: Annotated[Path, typer.Option(help="Folder that the column image is relative to.")],
    output_dir: Annotated[Path, typer.Option(help="Folder of saliency.csv, cases.png and tensorboard/.")],
    region: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER below dataset_dir, a PNG for each image; repeatable.")] = None,
    split: Annotated[str, typer.Option(help="Rows of this split.")] = "test",
    image_size: Annotated[int | None, typer.Option(help="Pixels per side; default: as in training.")] = None,
    n_cases: Annotated[int, typer.Option(help="Cases in the picture.", min=2)] = 6,
    limit: Annotated[int, typer.Option(help="Number of images, evenly spaced.", min=1)] = 200,
) -> None:
    """Draw saliency maps of models side by side, and measure them against lungs, boxes and other regions."""
    from sga_monai.interpret.explain import explain_checkpoints
    from sga_monai.interpret.explain import render as render_saliency

    # A path may hold = too.
    pairs = [
        text.partition("=") if "=" in text and not Path(text).is_file() else (Path(text).parent.name or "model", "", text)
        for text in checkpoint
    ]
    names = [name for name, _, _ in pairs]
    if any(names.count(name) > 1 for name, equals, _ in pairs if not equals):
        raise InputError("two models have the same name; give NAME=model.pt for each")
    models = {name: [path for other, _, path in pairs if other == name] for name in names}
    if any("=" not in text for text in region or ()):
        raise InputError("a region is NAME=FOLDER, as marker=masks/marker/northgate")
    regions = dict(text.split("=", 1) for text in region or ())
    if len(regions) < len(region or ()):
        raise InputError("two regions have the same name; give every one its own")
    table = explain_checkpoints(models, manifest, dataset_dir, output_dir, regions, split, image_size, None, n_cases, limit)
    typer.echo(render_saliency(table))
    typer.echo(f"wrote saliency.csv, saliency_images.csv, saliency.json, cases.png and tensorboard/ in {output_dir.name}/")


@app.command()
def audit(
    checkpoint: Annotated[Path, typer.Argument(help="model.pt of a training.")],
    manifest: Annotated[list[Path], typer.Option(help="Manifest of a site; may be repeated.")],
    dataset_dir: Annotated[Path, typer.Option(help="The folder that image and lung_mask are relative to.")],
    output_dir: Annotated[Path, typer.Option(help="Where audit.json, audit.csv and tensorboard/ are written.")],
    image_size: Annotated[int | None, typer.Option(help="Pixels per side; default: as in training.")] = None,
    voi: Annotated[str | None, typer.Option(help="dicom or none; default: as in training.")] = None,
    split: Annotated[str, typer.Option(help="Rows of this split.")] = "test",
    num_workers: Annotated[int, typer.Option(help="Processes that read and decode.")] = 0,
) -> None:
    """Find shortcuts: score each site without lungs, without border and with a planted marker, and probe for the site."""
    from sga_monai.interpret.audit_run import audit_checkpoint
    from sga_monai.interpret.audit_run import render as render_audit

    table = audit_checkpoint(checkpoint, manifest, dataset_dir, output_dir, image_size, voi, split, num_workers)
    typer.echo(render_audit(table))
    typer.echo(f"wrote audit.json, audit.csv and tensorboard/ in {output_dir.name}/")


@app.command()
def bundle(folder: Annotated[Path, typer.Argument(help="The new folder.")]) -> None:
    """Write the source bundle: the configurations of training, evaluation and inference, and the plans of experiments."""
    from sga_monai.core.source import write_source_bundle

    written = write_source_bundle(folder)
    typer.echo(f"wrote {written.name}/. Next: python -m monai.bundle run training --config_file {written.name}/train.json")


@app.command()
def package(
    checkpoint: Annotated[Path, typer.Option(help="model.pt of a finished training.")],
    out: Annotated[Path, typer.Option(help="Folder in which the bundle is written.")] = Path("dist"),
    baseline_checkpoint: Annotated[Path | None, typer.Option(help="model.pt of a baseline trained on the same manifest.")] = None,
    site_manifest: Annotated[list[Path] | None, typer.Option(help="Manifest of a known site; may be repeated.")] = None,
    source: Annotated[Path | None, typer.Option(help="Another source bundle; default: the installed one.")] = None,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "sga_cxr",
    fit_temperature: Annotated[
        bool, typer.Option("--fit-temperature", help="Scale probabilities by a temperature fitted on the internal validation set.")
    ] = False,
    wheelhouse: Annotated[
        bool, typer.Option("--wheelhouse", help="Also write a folder of wheels, for sites without a network; about 350 MB.")
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="The training manifest: the bundle then describes the development population, as shares.")
    ] = None,
) -> None:
    """Make a bundle for hospitals from a finished training: folder and zip, with reference and checksums."""
    from sga_monai.hospital.package import package_bundle

    folder = package_bundle(checkpoint, out, source, baseline_checkpoint, site_manifest or (), name, fit_temperature, manifest)
    typer.echo(f"wrote {folder.name}/ and {folder.name}.zip")
    if wheelhouse:
        from sga_monai.hospital.wheelhouse import write_wheelhouse

        wheels = write_wheelhouse(folder.with_name(f"{folder.name}-wheelhouse"))
        typer.echo(f"wrote {wheels.name}/: a site runs its install.sh, or install.ps1 on Windows")


@app.command()
def share(
    bundle: Annotated[Path, typer.Argument(help="Folder of sga-monai package.")],
    out: Annotated[Path, typer.Option(help="The new folder; nothing is uploaded.")],
    to: Annotated[str, typer.Option(help="model-zoo or hugging-face.")],
    name: Annotated[str | None, typer.Option(help="With model-zoo: name of the model there, such as chest_xray_classification.")] = None,
    url: Annotated[str | None, typer.Option(help="With model-zoo: where files above 25 MB will be.")] = None,
    license_id: Annotated[str | None, typer.Option("--license", help="With hugging-face: default that of the bundle's LICENSE.")] = None,
) -> None:
    """Write a bundle in the layout of MONAI's model zoo or of a Hugging Face repository."""
    from sga_monai.core import checks as check
    from sga_monai.hospital.sharing import write_hugging_face, write_model_zoo
    from sga_monai.hospital.verify import LARGE_FILES

    check.choice("to", to, ("model-zoo", "hugging-face"))
    if to == "hugging-face":
        if (name, url) != (None, None):
            raise InputError("--name and --url belong to --to model-zoo")
        write_hugging_face(bundle, out, license_id)
        typer.echo(f"wrote {out.name}/: upload its content to an empty repository")
        return
    if name is None or license_id is not None:
        raise InputError("--to model-zoo needs --name, and takes no --license")
    folder = write_model_zoo(bundle, out, name, url)
    typer.echo(f"wrote {out.name}/models/{name}/: copy it to models/ of the zoo's repository")
    if (folder / LARGE_FILES).is_file():
        typer.echo(f"upload the content of {out.name}/upload/ to {url}")
