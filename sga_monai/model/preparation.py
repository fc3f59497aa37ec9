"""How the images of a model were prepared; its images must be prepared so wherever it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import read_json

# A packaged bundle and the audit take no smaller one: nothing of a chest is left to see.
MIN_IMAGE_SIZE = 16
DAMAGED = "run.json beside the checkpoint is damaged; restore it, or move the checkpoint to a folder of its own"
# Of runs that do not name a setting: they were made before there was a choice.
BEFORE = {"orientation": "stored"}


@dataclass(frozen=True)
class Preparation:
    """What makes one prepared image of one file.

    Attributes:
        image_size: pixels of a side, 16 or more.
        voi: "dicom" or "none"; see ``read_cxr``.
        orientation: "header" or "stored"; see ``read_cxr``.

    Raises:
        InputError: when a value is out of range.

    Example:
        >>> str(Preparation(112))
        'image_size 112, voi dicom, orientation header'
    """

    image_size: int = 224
    voi: str = "dicom"
    orientation: str = "header"

    def __post_init__(self) -> None:
        check.whole("image_size", self.image_size, low=MIN_IMAGE_SIZE)
        check.choice("voi", self.voi, ("dicom", "none"))
        check.choice("orientation", self.orientation, ("header", "stored"))

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


SETTINGS = tuple(field.name for field in fields(Preparation))


def trained_preparation(checkpoint: str | Path, **given: Any) -> Preparation:
    """The preparation with which a model was trained: of ``run.json`` beside it, or the defaults where there is none.

    Args:
        checkpoint: path of a ``model.pt``.
        given: values that are not to be taken from there; ``None`` takes them from there.

    Raises:
        InputError: when the file is damaged or a value is out of range.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = {} if chosen.keys() >= set(SETTINGS) else recorded_preparation(checkpoint)
    return replace(Preparation(), **settings | chosen)


def recorded_preparation(checkpoint: str | Path) -> dict[str, Any]:
    """The ``SETTINGS`` of ``run.json`` beside the checkpoint; empty where there is none.

    Raises:
        InputError: when the file is damaged.
    """
    identity = run_identity(checkpoint)
    if identity is None:
        return {}
    try:
        settings = BEFORE | identity["settings"]
        return {"image_size": int(settings["image_size"]), "voi": str(settings["voi"]), "orientation": str(settings["orientation"])}
    except (ValueError, KeyError, TypeError):
        raise InputError(DAMAGED) from None


def run_identity(checkpoint: str | Path) -> Mapping[str, Any] | None:
    """``identity`` of ``run.json`` beside the checkpoint; ``None`` where there is none.

    Raises:
        InputError: when the file is damaged.
    """
    path = Path(checkpoint).with_name("run.json")
    if not path.is_file():
        return None
    try:
        identity: Any = read_json(path)["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(DAMAGED) from None
    if not isinstance(identity, Mapping):
        raise InputError(DAMAGED)
    return identity
