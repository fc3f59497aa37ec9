"""What a site decides for itself: its file names bundle, images and limits. The server can neither read nor change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import read_json
from sga_monai.core.text import ALPHABET_IN_WORDS, plain_text

APPROVALS = ("each", "none")
MIN_CELL = 10
# Names of NVFlare's sites, which become parts of file names.
NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
Section = TypeVar("Section")


@dataclass(frozen=True)
class EvaluationSite:
    """The section "evaluate" of a site's file.

    Attributes:
        bundle: the unpacked bundle.
        images: folder of the exported files.
        labels: CSV; see ``manifest_from_dicom``.
        out: folder of the validation and of ``release.json``; all else stays at the site.
        prevalence: see ``hospital.Site``, also for the attributes that follow.
        public_key: of the bundle's sender.
        site_key: file of ``sga-monai manifest key``.
        num_workers: processes that read.
        protocol: of ``sga-monai protocol``.
        min_cell: smallest number of patients that is shown, at least 10.
        approval: "each", so that a person approves every release before it leaves, or "none".
    """

    bundle: Path
    images: Path
    labels: Path
    out: Path
    prevalence: float | None = None
    public_key: Path | None = None
    site_key: Path | None = None
    num_workers: int = 0
    protocol: Path | None = None
    min_cell: int = MIN_CELL
    approval: str = "each"

    def __post_init__(self) -> None:
        check.whole("min_cell", self.min_cell, low=MIN_CELL)
        check.choice("approval", self.approval, APPROVALS)


@dataclass(frozen=True)
class TrainingSite:
    """The section "train" of a site's file.

    Attributes:
        manifest: with splits "train" and "val".
        dataset_dir: the folder that images are relative to.
        out: folder of the site's own model.
        min_cell: smallest number of patients of each label and split that is trained with, at least 10.
    """

    manifest: Path
    dataset_dir: Path
    out: Path
    min_cell: int = MIN_CELL

    def __post_init__(self) -> None:
        check.whole("min_cell", self.min_cell, low=MIN_CELL)


@dataclass(frozen=True)
class SiteFile:
    """A site's file.

    Attributes:
        alias: the name under which results are shown.
        evaluate: ``None`` where the site evaluates nothing.
        train: ``None`` where the site trains nothing.
    """

    alias: str
    evaluate: EvaluationSite | None = None
    train: TrainingSite | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.alias, str) or not plain_text(self.alias):
            raise InputError(f"alias must be written in {ALPHABET_IN_WORDS}")


def read_site_file(path: str | Path) -> SiteFile:
    """Read a site's file; its paths are relative to its folder.

    Raises:
        InputError: naming the section and the field that is missing, unknown or out of range.

    Example:
        >>> read_site_file("absent.json")
        Traceback (most recent call last):
        sga_monai.core.errors.InputError: absent.json is no JSON file; give the site's file
    """
    path = Path(path)
    try:
        content = read_json(path)
    except (OSError, ValueError):
        raise InputError(f"{path.name} is no JSON file; give the site's file") from None
    if not isinstance(content, dict):
        raise InputError(f"{path.name} must hold an object with alias, and evaluate or train or both")
    unknown = sorted(content.keys() - {"alias", "evaluate", "train"})
    if unknown or "alias" not in content:
        raise InputError(f"{path.name}: {'unknown: ' + ', '.join(unknown) if unknown else 'alias is missing'}")
    folder = path.resolve().parent
    evaluate = _section(content, "evaluate", EvaluationSite, folder, path.name)
    return SiteFile(content["alias"], evaluate, _section(content, "train", TrainingSite, folder, path.name))


def site_content(site: SiteFile) -> dict[str, Any]:
    """The content of a site's file with absolute paths."""
    return {key: _texts(value) for key, value in asdict(site).items() if value is not None}


def site_name(path: str | Path) -> str:
    """The name of the site in a simulation: that of its file.

    Raises:
        InputError: when it has other characters than NVFlare's names.
    """
    name = Path(path).stem
    if not name or not set(name) <= set(NAME) or name.lower() in ("server", "."):
        raise InputError("a site's file must be named with letters, digits, - and _, and not server; rename it")
    return name


def local_name(name: str) -> str:
    """The file of a site in the folder ``local`` of its startup kit."""
    return f"sga_monai.{name}.json"


def _section(content: Mapping[str, Any], key: str, kind: type[Section], folder: Path, name: str) -> Section | None:
    """One section with absolute paths; ``None`` where it is absent."""
    given = content.get(key)
    if given is None:
        return None
    if not isinstance(given, dict):
        raise InputError(f"{name}: {key} must be an object")
    known = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    needed = [field for field in known if known[field] == "Path"]
    wrong = sorted(given.keys() - known.keys()) or [field for field in needed if not isinstance(given.get(field), str)]
    if wrong:
        raise InputError(f"{name}: {key}: {', '.join(wrong)} is unknown, missing or no text")
    paths = {field: folder / str(value) for field, value in given.items() if known[field].startswith("Path") and value is not None}
    return kind(**{**given, **paths})


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: str(inner) if isinstance(inner, Path) else inner for key, inner in value.items()}
    return value
