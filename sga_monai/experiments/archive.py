"""The finished runs of an experiment without their models: for other statistics, and for going on at another machine."""

from __future__ import annotations

import io
import tarfile
from functools import partial
from pathlib import Path

from sga_monai.core.files import write_whole
from sga_monai.core.folders import is_finished
from sga_monai.evaluation.predictions import FILE, ROW, read_predictions

RUN = "run.json"
# Of a run's folder, beside the predictions; and beside the folder, what the cell was given.
KEPT = (RUN, "results.csv", "curves.csv")
# A score is a float32 number: nine digits name it.
DIGITS = "%.9g"


def write_archive(path: Path, folder: Path) -> None:
    """Write the finished runs of an experiment, without models, as a ``.tar.xz``; equal runs make equal bytes.

    Unpacked into an ``output_dir``, they are finished cells there: ``sga-monai experiment`` goes on with the others. Of the
    predictions it has the columns ``ROW``, ``score`` and ``probability``, with nine digits.

    Args:
        path: the archive.
        folder: ``output_dir`` of ``sga-monai experiment``.

    Raises:
        InputError: when the predictions of a run are damaged.
        DiskError: see ``write_whole``.

    Example:
        >>> write_archive(Path("docs/results/norms_real_runs.tar.xz"), Path("runs/norms_real"))  # doctest: +SKIP
    """
    contents: dict[str, bytes] = {}
    for run in sorted(card.parent for card in folder.glob(f"*/*/seed_*/{RUN}") if is_finished(card.parent)):
        name = run.relative_to(folder).as_posix()
        files = {f"{name}/{kept}": run / kept for kept in KEPT} | {f"{name}.json": run.with_name(f"{run.name}.json")}
        contents |= {inside: file.read_bytes() for inside, file in files.items() if file.is_file()}
        table = read_predictions(run / FILE)[[*ROW, "score", "probability"]]
        contents[f"{name}/{FILE}"] = table.to_csv(index=False, float_format=DIGITS, lineterminator="\n").encode()
    write_whole(path, partial(_write, contents))


def archived_runs(path: Path) -> int:
    """How many runs an archive has."""
    with tarfile.open(path) as archive:
        return sum(Path(name).name == RUN for name in archive.getnames())


def _write(contents: dict[str, bytes], path: Path) -> None:
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for name, content in contents.items():
            # Without a time or an owner, which the default has none of.
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
