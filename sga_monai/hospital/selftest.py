"""Does the model compute at a site what it computed where it was packaged? Eight drawn files of eight transfer syntaxes say so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import torch
from monai.transforms import Compose
from pydicom import uid
from torch import nn

from sga_monai.cohorts.anatomy import draw_chest
from sga_monai.cohorts.phantom import SITES, write_dicom
from sga_monai.core.errors import InputError, ReadError
from sga_monai.core.files import read_json, write_json
from sga_monai.core.schema import validate
from sga_monai.data.transforms import preprocessing
from sga_monai.imaging.read import read_cxr
from sga_monai.model.modes import frozen_statistics
from sga_monai.model.preparation import Preparation

FOLDER, EXPECTED = "selftest", "selftest/expected.json"
# Processors add in different orders: the logits of one network differ by 1e-5 or so.
TOLERANCE = 1e-3
# Transfer syntax, BitsStored and PhotometricInterpretation of each file.
FILES = (
    (uid.ExplicitVRLittleEndian, 12, "MONOCHROME2"),
    (uid.ImplicitVRLittleEndian, 16, "MONOCHROME1"),
    (uid.DeflatedExplicitVRLittleEndian, 10, "MONOCHROME2"),
    (uid.RLELossless, 12, "MONOCHROME1"),
    (uid.JPEGBaseline8Bit, 8, "MONOCHROME2"),
    (uid.JPEGLosslessSV1, 12, "MONOCHROME2"),
    (uid.JPEGLSLossless, 14, "MONOCHROME1"),
    (uid.JPEG2000Lossless, 12, "MONOCHROME1"),
)
# Of ``EXPECTED``.
SCHEMA = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["file", "syntax", "logits", "image_sha256", "image_mean"],
        "properties": {
            **{key: {"type": "string"} for key in ("file", "syntax", "image_sha256")},
            "logits": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
            "image_mean": {"type": "number"},
        },
    },
}
LOSSY, LOSSY_TOLERANCE = (uid.JPEGBaseline8Bit.name,), 0.005


@dataclass(frozen=True)
class Comparison:
    """One file of a self-test.

    Attributes:
        syntax: name of its transfer syntax.
        image: whether the decoded image is the same, to the bit, or a lossy one nearly so.
        difference: largest absolute difference of the logits; infinite where the file could not be read.
    """

    syntax: str
    image: bool
    difference: float

    @property
    def passed(self) -> bool:
        """Whether image and logits are those of the packaging."""
        return self.image and self.difference <= TOLERANCE


def write_selftest(bundle: str | Path, network: nn.Module, preparation: Preparation) -> None:
    """Draw the eight files into ``selftest/`` and write what the network says of them to ``selftest/expected.json``.

    Args:
        bundle: the folder of the bundle.
        network: the packaged model, on the CPU.
        preparation: of its images.
    """
    folder, chain = Path(bundle) / FOLDER, preprocessing(preparation)
    folder.mkdir(parents=True)
    lines = []
    for i, (syntax, bits, photometric) in enumerate(FILES):
        site = replace(SITES[i % len(SITES)], syntax=uid.UID(syntax), bits=bits, photometric=photometric)
        row = {"patient_id": f"selftest-{i}", "view": "PA", "sex": "FM"[i % 2], "age": "50"}
        chest = draw_chest(np.random.default_rng((0, i)), site.shape, site.style, bool(i % 2), "R" if i % 4 < 2 else None)
        path = folder / f"{i}.dcm"
        write_dicom(path, chest, site, row, 0, i)
        logits = _logits(network, path, chain)
        # Seven digits, so that equal weights give equal bytes.
        line = {"file": path.name, "syntax": uid.UID(syntax).name, "logits": [float(f"{value:.7g}") for value in logits]}
        lines.append(line | _image_facts(path, preparation))
    write_json(folder.parent / EXPECTED, lines)


def run_selftest(bundle: str | Path, network: nn.Module, preparation: Preparation) -> list[Comparison]:
    """Read the eight files and score them; compare with what the packaging found.

    Args:
        bundle: the folder of a verified bundle.
        network: its model.
        preparation: of its images.

    Raises:
        InputError: when the bundle has no self-test, as those of earlier versions, or one that ``write_selftest`` did not write.
    """
    try:
        lines: list[dict[str, Any]] = read_json(Path(bundle) / EXPECTED)
        validate(lines, SCHEMA)
    except (OSError, ValueError, RecursionError, jsonschema.ValidationError):
        raise InputError("the bundle has no self-test that can be read; ask for it to be packaged again with this version") from None
    found, chain = [], preprocessing(preparation)
    for line in lines:
        path = Path(bundle) / FOLDER / Path(line["file"]).name
        try:
            same = _same_image(line, _image_facts(path, preparation))
            difference = float(np.abs(_logits(network, path, chain) - np.array(line["logits"])).max())
        except ReadError:
            same, difference = False, np.inf
        found.append(Comparison(str(line["syntax"]), same, difference if np.isfinite(difference) else np.inf))
    return found


def refuse_failures(found: list[Comparison]) -> None:
    """Refuse to go on where a file differs.

    Raises:
        InputError: naming the transfer syntaxes, or the network where all differ.
    """
    failed = [comparison for comparison in found if not comparison.passed]
    if not failed:
        return
    decoded = [comparison.syntax for comparison in failed if not comparison.image]
    if decoded:
        what = f"files are decoded otherwise ({', '.join(decoded)}): compare the versions of pydicom, numpy and imagecodecs with"
    else:
        what = "the images are the same and the logits are not: compare the versions of torch and monai with"
    raise InputError(f"self-test: {len(failed)} of {len(found)} files differ from the packaging; {what} constraints.txt")


def _logits(network: nn.Module, path: Path, chain: Compose) -> np.ndarray[Any, np.dtype[np.float32]]:
    image = torch.as_tensor(np.asarray(chain({"image": str(path)})["image"]))[None]
    with frozen_statistics(network), torch.no_grad():
        logits: np.ndarray[Any, np.dtype[np.float32]] = network(image)[0].float().numpy()
    return logits


def _image_facts(path: Path, preparation: Preparation) -> dict[str, Any]:
    image = np.ascontiguousarray(read_cxr(path, preparation.voi, orientation=preparation.orientation), dtype="<f4")
    return {"image_sha256": hashlib.sha256(image.tobytes()).hexdigest(), "image_mean": float(f"{image.mean(dtype=np.float64):.7g}")}


def _same_image(expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Decoders of a lossy stream may round differently, and no more than that."""
    if expected["syntax"] in LOSSY:
        return bool(abs(found["image_mean"] - expected["image_mean"]) <= LOSSY_TOLERANCE * abs(expected["image_mean"]))
    return bool(found["image_sha256"] == expected["image_sha256"])
