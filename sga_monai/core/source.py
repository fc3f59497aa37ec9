"""Where the source bundle is: inside the installed package, or in the repository of an editable installation; its ids that are paths."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from sga_monai.core.errors import InputError
from sga_monai.core.files import copy_folder

# How plans, documents and README name it: relative to the repository.
NAME = "bundles/sga"
# Ids of its configurations whose value is a path: a folder 2024_01_01 is no number, and run#2 no reference to a part of run.
PATHS = (
    "bundle_root", "output_dir", "dataset_dir", "manifest", "cache_dir", "pretrained_weights", "checkpoint", "site_key", "accepted_pairs",
)  # fmt: skip
LISTS_OF_PATHS = ("external_manifests",)


def top_id(key: str) -> str:
    """The id at the top level of a configuration to which a key of it, or of an override, belongs.

    Example:
        >>> top_id("train#trainer"), top_id("+train::sampler::seed")
        ('train', 'train')
    """
    return key.lstrip("+").replace("::", "#").split("#")[0]


def refuse_no_path(name: str, value: object) -> None:
    """Refuse a text that stands for no path: empty, as of a variable that is not set, or JSON's null as one types it.

    Args:
        name: of the option.
        value: a path, a list of paths, or anything else, which passes.

    Raises:
        InputError: naming the option; otherwise a folder of that name would be made, or what it is the path of left out in silence.

    Example:
        >>> refuse_no_path("cache_dir", "./null")
        >>> refuse_no_path("cache_dir", "null")
        Traceback (most recent call last):
        sga_monai.core.errors.InputError: cache_dir is the text 'null', which is no path; leave the option out for none, or write ./null
    """
    for path in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(path, str) or path.strip().lower() not in ("", "null", "none"):
            continue
        if not path.strip():
            raise InputError(f"{name} is an empty text, which is no path; give one, or leave the option out")
        raise InputError(f"{name} is the text {path!r}, which is no path; leave the option out for none, or write ./{path}")


def source_bundle() -> Path:
    """The folder of train.json, evaluate.json, inference.json and the plans of experiments.

    Raises:
        InputError: when the installation has none.
    """
    package = Path(str(files("sga_monai")))
    for folder in (package / "bundle_source", package.parent / NAME):
        if (folder / "train.json").is_file():
            return folder
    raise InputError("the source bundle is missing from this installation; install sga_monai again")


def find_file(path: str | Path) -> Path:
    """A file of the source bundle named as in the repository, such as ``bundles/sga/train.json``, from any folder.

    What exists where ``path`` says is taken before what is installed; any other path is returned as it is.
    """
    given = Path(path)
    if given.exists() or not given.is_relative_to(NAME):
        return given
    installed = source_bundle() / given.relative_to(NAME)
    return installed if installed.is_file() else given


def write_source_bundle(folder: str | Path) -> Path:
    """Copy the source bundle to ``folder``, to be changed and trained there.

    Raises:
        InputError: when something is there already.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target.name} is there already and not empty; give a new folder")
    copy_folder(source_bundle(), target, ("__pycache__", ".*"), into=True)
    return target
