"""Pages of experiments, made from their records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from sga_monai.core.display import page_templates
from sga_monai.core.errors import InputError
from sga_monai.core.files import write_csv, write_utf8, write_whole
from sga_monai.core.folders import is_finished
from sga_monai.experiments.archive import archived_runs, refuse_other_runs, write_archive
from sga_monai.experiments.dashboards import write_dashboards
from sga_monai.experiments.figures import cells_with_curves, learning_curves, svg
from sga_monai.experiments.plan import Plan
from sga_monai.experiments.records import experiment_records, read_records, write_records
from sga_monai.experiments.selection import Record
from sga_monai.experiments.tables import NOTE, flat_rows, markdown, rows_of, tables

PAGE = "# Results\n\nWritten by `sga-monai collect` from the records (`*.jsonl`) in this folder."
ARCHIVE = "_runs.tar.xz"
# What the figures mean is written by people.
VERDICT = "**What they mean, what to set, and what is not known: [analysis.md](analysis.md).**"


def collect_experiment(plan: Plan, output_dir: str | Path) -> list[Record]:
    """Write ``records.jsonl``, ``results.csv``, ``results.md``, ``results.html`` and ``tensorboard/`` of an experiment.

    It may be unfinished; the tables then say so.

    Returns:
        The records; see ``experiment_records``.
    """
    out = Path(output_dir)
    runs = {cell: out / cell.folder for cell in plan.cells if is_finished(out / cell.folder)}
    records = experiment_records(plan, runs)
    write_whole(out / "records.jsonl", lambda path: write_records(path, records))
    write_csv(out / "results.csv", flat_rows(records))
    write_utf8(out / "results.md", markdown(records))
    page = (
        page_templates("experiments")
        .get_template("experiment.html.jinja")
        .render(
            head=records[0],
            tables=tables(records),
            lines=rows_of(records),
            note=NOTE,
            picture=svg(records),
            curves=learning_curves(records),
        )
    )
    write_utf8(out / "results.html", page)
    write_dashboards(records, runs, out)
    return records


def write_page(sources: Sequence[str | Path], out: str | Path) -> list[str]:
    """Write ``README.md`` of several experiments into ``out``; of each ``<name>.jsonl``, ``<name>.svg`` and ``<name>_runs.tar.xz``.

    Args:
        sources: folders of ``collect_experiment``, records files, or ``out`` itself for what is there already. Runs are archived
            from folders; see ``write_archive``.
        out: the folder.

    Returns:
        Names of the experiments on the page: all whose records are in ``out`` afterwards.

    Raises:
        InputError: when there are no records, two sources are of one plan, the runs of a folder are others than its records' (see
            ``write_archive``), an archive in ``out`` is damaged or of other runs than the records beside it, or ``out`` has another
            ``README.md``.
    """
    out = Path(out)
    if (out / "README.md").is_file() and not (out / "README.md").read_text(encoding="utf-8").startswith(PAGE):
        raise InputError("out has a README.md that sga-monai collect did not write; give another folder")
    others = [source for source in map(Path, sources) if source.resolve() != out.resolve()]
    given = [read_records(source / "records.jsonl" if source.is_dir() else source) for source in others]
    names = [records[0]["name"] for records in given]
    for name in {name for name in names if names.count(name) > 1}:
        raise InputError(f"two of these are experiments of the plan {name}, and a page shows one; give one, or rename a plan")
    out.mkdir(parents=True, exist_ok=True)
    earlier = [read_records(path) for path in sorted(out.glob("*.jsonl"))]
    # Of a folder the archive is written anew below; beside other records it would be linked as theirs.
    archived = {records[0]["name"] for records, source in zip(given, others, strict=True) if source.is_dir()}
    for name, records in {one[0]["name"]: one for one in (*earlier, *given)}.items():
        if name not in archived:
            refuse_other_runs(out / f"{name}{ARCHIVE}", records)
    for records in given:
        write_whole(out / f"{records[0]['name']}.jsonl", partial(write_records, records=records))
    for records, source in zip(given, others, strict=True):
        if source.is_dir():
            write_archive(out / f"{records[0]['name']}{ARCHIVE}", source, records)
    found = [read_records(path) for path in sorted(out.glob("*.jsonl"))]
    if not found:
        raise InputError("no records in this folder; give the folders of sga-monai experiment")
    for records in found:
        for name, picture in zip(_picture_names(records), (svg(records), learning_curves(records)), strict=False):
            write_utf8(out / name, str(picture))
    text = page(found, (out / "analysis.md").is_file(), archives_in(out))
    write_utf8(out / "README.md", text)
    return [records[0]["name"] for records in found]


def archives_in(folder: Path) -> dict[str, int]:
    """The number of archived runs of each experiment that has an archive in the folder of a page."""
    return {path.name.removesuffix(ARCHIVE): archived_runs(path) for path in sorted(folder.glob(f"*{ARCHIVE}"))}


def page(found: Sequence[Sequence[Record]], analyzed: bool = False, archived: Mapping[str, int] | None = None) -> str:
    """The Markdown page of several experiments: those of the paper first, then by name.

    Args:
        found: the records of each experiment.
        analyzed: whether there is an ``analysis.md`` beside the page.
        archived: of ``archives_in``.
    """
    ordered = sorted(found, key=lambda records: (not records[0].get("published"), records[0]["name"]))
    parts = [PAGE, *([VERDICT] if analyzed else []), NOTE]
    parts.append("\n".join(f"- [{records[0]['title']}](#{quote(records[0]['name'])})" for records in ordered))
    # An anchor of its own, since sites make different ones from the same heading.
    for records in ordered:
        name = records[0]["name"]
        parts.append(f'<a id="{name}"></a>\n\n' + markdown(records, _picture_names(records)))
        if archived and name in archived:
            file = f"{name}{ARCHIVE}"
            parts[-1] += f"- Predictions of {archived[name]} cells, without models: [{file}]({quote(file)}).\n"
    return "\n\n".join(parts).rstrip() + "\n"


def _picture_names(records: Sequence[Record]) -> list[str]:
    """File names of an experiment's pictures: AUROCs, and learning curves where they were recorded."""
    name = records[0]["name"]
    return [f"{name}.svg", f"{name}_curves.svg"] if cells_with_curves(records) else [f"{name}.svg"]
