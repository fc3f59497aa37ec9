"""A packaged bundle as the places want it where models are shared: MONAI's model zoo, and Hugging Face. Nothing is uploaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sga_monai.core.errors import InputError
from sga_monai.core.files import copy_folder, file_sha256, read_json, write_utf8
from sga_monai.hospital.checksums import write_sums
from sga_monai.hospital.verify import LARGE_FILES, SIGNATURE, SUMS, verify_bundle

# The model zoo takes no larger file into its repository ("Model storage" of its CONTRIBUTING.md).
LARGEST_BYTES = 25_000_000
# Its CI takes "_v" and a digit for the beginning of a version.
ZOO_NAME = re.compile(r"(?!.*_v\d)[a-z][a-z0-9]*(_[a-z0-9]+)+")
ADDRESS = re.compile(r"(https|file)://[!-~]+")
TAGS = ("monai", "medical", "radiology", "chest-x-ray", "image-classification", "domain-generalization")


def write_model_zoo(bundle: str | Path, out: str | Path, name: str, url: str | None = None) -> Path:
    """Write ``out/models/<name>/`` for a pull request to Project-MONAI/model-zoo, and ``out/upload/`` of its large files.

    ``large_files.yml`` names each file above 25 MB with its address and SHA-256; the zoo's CI downloads them. With them in
    place the folder is a bundle that ``verify_bundle`` accepts.

    Args:
        bundle: folder of ``package_bundle``.
        out: the new folder.
        name: of the model in the zoo: lower-case words with underscores, that say task and kind of image.
        url: where the content of ``out/upload/`` will be; only needed where a file is large.

    Returns:
        The folder of the model.

    Raises:
        InputError: when the bundle is not what was packaged, ``out`` exists, or the name or address is not as it must be.
    """
    if not ZOO_NAME.fullmatch(name):
        raise InputError("the name must be lower-case words with underscores, as chest_xray_classification, and no version")
    if url is not None and not ADDRESS.fullmatch(url):
        raise InputError("the address of the large files must begin with https://")
    source, target, upload = Path(bundle), Path(out) / "models" / name, Path(out) / "upload"
    verify_bundle(source)
    metadata = _read_metadata(source)
    if metadata["version"] not in metadata["changelog"]:
        raise InputError("metadata.json: the version is not in its changelog; package again with a line for it")
    large = [path for path in sorted(source.rglob("*")) if path.is_file() and path.stat().st_size > LARGEST_BYTES]
    if large and url is None:
        raise InputError(f"{len(large)} files are larger than 25 MB; say with --url where the content of upload/ will be")
    if large and upload.exists():
        raise InputError("upload is there already, with files of another model; give a new folder as out")
    _copy(source, target)
    digests, lines = {}, ["large_files:\n"]
    for path in large:
        place = path.relative_to(source).as_posix()
        digests[place] = file_sha256(path)
        (upload / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).replace(upload / place)
        fields = {"path": place, "url": f"{str(url).rstrip('/')}/{place}", "hash_val": digests[place], "hash_type": "sha256"}
        # A text in JSON is one in YAML.
        lines += [f"  {'- ' if key == 'path' else '  '}{key}: {json.dumps(value)}\n" for key, value in fields.items()]
    if large:
        write_utf8(target / LARGE_FILES, "".join(lines))
    write_sums(target, digests)
    return target


def write_hugging_face(bundle: str | Path, out: str | Path, license_id: str | None = None) -> Path:
    """Write ``out/`` as the content of a Hugging Face repository: the bundle, and its model card as ``README.md``.

    Args:
        bundle: folder of ``package_bundle``.
        out: the new folder.
        license_id: of the model by Hugging Face's list of licenses, as ``apache-2.0``; that of the bundle's LICENSE when
            ``None``.

    Returns:
        ``out``, which is a bundle that ``verify_bundle`` accepts, and so is a download of it.

    Raises:
        InputError: when the bundle is not what was packaged, ``out`` exists, or the license is not known.
    """
    source, target = Path(bundle), Path(out)
    verify_bundle(source)
    license_id = license_id or _license_id((source / "LICENSE").read_text(encoding="utf-8"))
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_id):
        raise InputError("the license must be an identifier of Hugging Face's list, as apache-2.0 or cc-by-nc-4.0")
    metadata = _read_metadata(source)
    tags = [*TAGS, *(["adversarial-training"] if "adversarial" in str(metadata.get("description")) else [])]
    _copy(source, target)
    front = {"license": license_id, "library_name": "monai", "pipeline_tag": "image-classification", "tags": tags}
    lines = ["---\n"]
    for key, value in front.items():
        lines += [f"{key}:\n", *(f"- {one}\n" for one in value)] if isinstance(value, list) else [f"{key}: {value}\n"]
    card = (source / "docs/README.md").read_text(encoding="utf-8")
    text = "".join(lines) + f"---\n\n{card}{_python_use(metadata)}"
    write_utf8(target / "README.md", text)
    write_sums(target)
    return target


def _python_use(metadata: dict[str, Any]) -> str:
    return (
        f"\nIn Python, with `sga_monai` {metadata['version']}; every file is compared with `{SUMS}` first:\n\n"
        '```python\nimport sga_monai\n\nmodel = sga_monai.load("path/of/the/download")\nmodel.probability("image.dcm")\n```\n'
    )


def _license_id(text: str) -> str:
    if "Apache License" not in text[:200]:
        raise InputError("LICENSE is not the Apache License; say with --license which one of Hugging Face's list it is")
    return "apache-2.0"


def _read_metadata(bundle: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = read_json(bundle / "configs/metadata.json")
    return metadata


def _copy(source: Path, target: Path) -> None:
    """Copy a bundle without its checksums and signature, which are of another folder's files."""
    if target.exists():
        raise InputError(f"{target.name} is there already; give a new folder as out")
    copy_folder(source, target, (SUMS, SIGNATURE, ".cache", ".gitattributes"))
