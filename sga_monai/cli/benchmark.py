"""``sga-monai benchmark``: time this machine."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Measure this machine.")

ImageSize = Annotated[int, typer.Option(help="Pixels per side.")]
BatchSize = Annotated[int, typer.Option(help="Images per mini-batch.")]
Threads = Annotated[int, typer.Option(help="Threads of torch; with one, CPU time of the process is measured, otherwise wall time.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Rounds = Annotated[int, typer.Option(help="How often each case is timed, in turn with the others.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the record here.")]


@app.command()
def read(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched with its subfolders.")],
    image_size: Annotated[int, typer.Option(help="Pixels per side after resizing.")] = 224,
    rounds: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 3,
    limit: Annotated[int, typer.Option(help="Number of files, drawn with a fixed seed.", min=1)] = 100,
) -> None:
    """Images a second of this package's chain and of MONAI's default chain, interleaved on the same files."""
    from sga_monai import benchmark

    timing = benchmark.time_reading(folder, image_size, rounds, limit)
    table = Table("chain", "images", "images/s", title=f"one process, {image_size} px, median of {rounds} rounds")
    for line in benchmark.lines(timing):
        table.add_row(*line)
    Console().print(table)
    typer.echo(f"reading and decoding take {timing.codec_share:.0%} of our time")
    if timing.ratios:
        middle, low, high = statistics.median(timing.ratios), min(timing.ratios), max(timing.ratios)
        typer.echo(f"MONAI's chain takes {middle:.1f} times as long [{low:.1f}, {high:.1f}] on the files that it reads")


@app.command()
def commands(
    context: typer.Context,
    bundle: Annotated[Path | None, typer.Option(help="A bundle of sga-monai package: also time verify.")] = None,
    report: Annotated[Path | None, typer.Option(help="A folder of sga-monai report: also time release.")] = None,
    releases: Annotated[list[Path] | None, typer.Option(help="release.json of two sites or more: also time pool.")] = None,
    rounds: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 3,
) -> None:
    """CPU seconds of each command's help; with inputs, also of whole runs of verify, release and pool."""
    from sga_monai import benchmark

    names = sorted(getattr(context.find_root().command, "commands", {}))
    given = [["version"], ["--help"], *([name, "--help"] for name in names if name != "version")]
    with tempfile.TemporaryDirectory() as folder:
        if bundle is not None:
            given.append(["verify", str(bundle)])
        if report is not None:
            given.append(["release", str(report), "--out", f"{folder}/release.json"])
        if releases:
            given.append(["pool", *map(str, releases), "--out", folder])
        table = Table("command", "CPU seconds", title=f"one process each, median of {rounds} rounds")
        for arguments in given:
            shown = arguments[0] if len(arguments) > 1 and arguments[1] != "--help" else " ".join(arguments)
            table.add_row(shown, f"{benchmark.command_seconds(arguments, rounds):.2f}")
    Console().print(table)


def _run(names: list[str], image_size: int, batch_size: int, threads: int, device: str, rounds: int, path: Path | None) -> None:
    from sga_monai.benchmark import Machine, run_benchmarks
    from sga_monai.benchmark.suite import is_record, table_of_facts, table_of_lines
    from sga_monai.core.outputs import refuse_other_kind

    # Before what takes minutes.
    refuse_other_kind("--json", path, is_record, "record of a benchmark")
    record = run_benchmarks(names, Machine(image_size, batch_size, threads, device, rounds), path)
    machine = record["machine"]
    title = (
        f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads, {machine['clock']}, {image_size} px, batch {batch_size}"
    )
    table = Table("case", "ms", "compared with", "ratio [rounds]", "limit", "goal", "met", "memory", title=title)
    for line in table_of_lines(record):
        table.add_row(*line)
    Console().print(table)
    if record["facts"]:
        facts = Table("figure", "value", "goal", "met")
        for line in table_of_facts(record):
            facts.add_row(*line)
        Console().print(facts)
    for note in record["notes"]:
        typer.echo(note)


def _benchmark(names: list[str], size: int, batch: int, times: int) -> Callable[..., None]:
    """A command that runs benchmarks, with defaults of image size, batch size and rounds."""

    def command(
        image_size: ImageSize = size,
        batch_size: BatchSize = batch,
        threads: Threads = 1,
        device: Device = "cpu",
        rounds: Rounds = times,
        json: Json = None,
    ) -> None:
        _run(names, image_size, batch_size, threads, device, rounds, json)

    return command


for name, size, batch, times, text in (
    ("step", 128, 16, 5, "A training step of NT, AT, SG, SGA and of SGA put together from public parts: operations, time, memory."),
    ("engine", 128, 16, 5, "What trainer, handlers, progress and checks cost an iteration beyond the network's passes."),
    ("data", 224, 64, 5, "First and later epochs, beside MONAI's datasets and torchxrayvision."),
    ("evaluate", 224, 8, 3, "From DICOM files to predictions and heat maps, beside a stock MONAI chain."),
    ("explain", 224, 8, 3, "FullGrad beside a forward pass and the authors' way of computing it."),
    ("all", 224, 16, 3, "Evaluate, explain, data, step and engine, one after the other."),
):
    app.command(name, help=text)(_benchmark([] if name == "all" else [name], size, batch, times))
