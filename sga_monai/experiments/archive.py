"""The finished runs of an experiment without their models: for other statistics, and for going on at another machine."""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from sga_monai.core.errors import InputError
from sga_monai.core.files import read_earlier, write_whole
from sga_monai.core.folders import is_finished
from sga_monai.evaluation.predictions import FILE, ROW, read_predictions
from sga_monai.experiments.plan import Cell
from sga_monai.experiments.selection import Record

RUN = "run.json"
# Of a run's folder, beside the predictions; and beside the folder, what the cell was given.
KEPT = (RUN, "results.csv", "curves.csv")
# Of a difference of two float32 numbers, which have seven.
DIGITS = "%.9g"
DAMAGED = "is damaged; restore it, or give the folder of its experiment"


def write_archive(path: Path, folder: Path, records: Sequence[Record]) -> None:
    """Write the runs that an experiment's records are of, without models, as a ``.tar.xz``; equal runs make equal bytes.

    Unpacked into an ``output_dir``, they are finished cells there: ``sga-monai experiment`` goes on with the others. Of the
    predictions it has the columns ``ROW``, ``score`` and ``probability``, with nine digits.

    Args:
        path: the archive.
        folder: ``output_dir`` of ``sga-monai experiment``; a run that is not there any more is kept as an earlier archive at
            ``path`` has it, and otherwise left out.
        records: of ``records.jsonl`` there.

    Raises:
        InputError: when a run was begun or ended anew after the records were written, or its predictions or the earlier archive
            are damaged.
        DiskError: see ``write_whole``.

    Example:
        >>> folder = Path("runs/norms_real")
        >>> records = read_records(folder / "records.jsonl")  # doctest: +SKIP
        >>> write_archive(Path("docs/results/norms_real_runs.tar.xz"), folder, records)  # doctest: +SKIP
    """
    contents: dict[str, bytes] = {}
    earlier: dict[str, bytes] | None = None
    for name, finished in sorted((_folder(record), record["finished"]) for record in records if record["kind"] == "cell"):
        run = folder / name
        if not (run / RUN).is_file():
            earlier = _read(path) if earlier is None else earlier
            if json.loads(earlier.get(f"{name}/{RUN}", "{}")).get("finished") == finished:
                contents |= {inside: content for inside, content in earlier.items() if inside.startswith((f"{name}/", f"{name}.json"))}
            continue
        if not is_finished(run) or read_earlier(run / RUN)["finished"] != finished:
            raise InputError(f"the run {name} is not the one that records.jsonl is of; give sga-monai experiment again, then collect")
        files = {f"{name}/{kept}": run / kept for kept in KEPT} | {f"{name}.json": run.with_name(f"{run.name}.json")}
        contents |= {inside: file.read_bytes() for inside, file in files.items() if file.is_file()}
        table = read_predictions(run / FILE)[[*ROW, "score", "probability"]]
        contents[f"{name}/{FILE}"] = table.to_csv(index=False, float_format=DIGITS, lineterminator="\n").encode()
    write_whole(path, partial(_write, contents))


def archived_runs(path: Path) -> int:
    """How many runs an archive has.

    Raises:
        InputError: when it is damaged.
    """
    with _opened(path, DAMAGED) as archive:
        return sum(Path(name).name == RUN for name in archive.getnames())


def refuse_other_runs(path: Path, records: Sequence[Record]) -> None:
    """Refuse an archive beside records that are of other runs; one that lacks some of theirs, or is not there, is none.

    Args:
        path: the archive.
        records: that stand on the page beside it.

    Raises:
        InputError: when it has a run that no record is of, or is damaged.
    """
    if not path.is_file():
        return
    finished = {_folder(record): record["finished"] for record in records if record["kind"] == "cell"}
    with _opened(path, DAMAGED) as archive:
        cards = {Path(entry.name).parent.as_posix(): archive.extractfile(entry) for entry in archive if Path(entry.name).name == RUN}
        for name, card in cards.items():
            if card is None or finished.get(name) != json.loads(card.read()).get("finished"):
                raise InputError(
                    f"{path.name} beside the page has runs that the records of {records[0]['name']} are not of, such as {name}; give the "
                    "folder of sga-monai experiment instead of its records, or move the archive away"
                )


def _read(path: Path) -> dict[str, bytes]:
    """The files of an earlier archive; none where there is no archive."""
    if not path.is_file():
        return {}
    text = "is damaged, and may have runs whose folders are gone; restore it, or remove it if it is not needed"
    with _opened(path, text) as archive:
        return {entry.name: stream.read() for entry in archive if (stream := archive.extractfile(entry)) is not None}


@contextlib.contextmanager
def _opened(path: Path, refusal: str) -> Iterator[tarfile.TarFile]:
    """An archive to read, or an ``InputError`` that begins with its name."""
    try:
        with tarfile.open(path) as archive:
            yield archive
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError):
        raise InputError(f"{path.name} {refusal}") from None


def _folder(record: Record) -> str:
    return Cell(record["method"], record["condition"], record["seed"], {}).folder


def _write(contents: dict[str, bytes], path: Path) -> None:
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for name, content in contents.items():
            # Without a time or an owner, which the default has none of.
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
