"""A packaged model in one call: network, preparation of images, threshold, temperature."""

from __future__ import annotations

import math
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.transforms import Compose
from torch import Tensor, nn

from sga_monai.core.errors import InputError, input_error
from sga_monai.data.transforms import preprocessing
from sga_monai.hospital.evaluate import load_models
from sga_monai.hospital.formats import MODEL
from sga_monai.hospital.reference import read_reference, reference_preparation
from sga_monai.hospital.verify import verify_bundle, verify_signature
from sga_monai.model.scores import logit_difference

# A bundle of two networks is below 1 GB.
MOST_BYTES = 8 << 30
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_./-]*")


@dataclass(frozen=True)
class LoadedModel:
    """A verified model, ready to score images; research only.

    Attributes:
        name: of the bundle.
        version: of the bundle.
        network: in eval mode, on the CPU: ``[B, 1, S, S]`` in [0, 1] to logits ``[B, 2]``.
        preprocess: from the path of an image (DICOM, PNG, JPEG, NIfTI) to a tensor ``[1, S, S]``.
        threshold: an image with this score or more is called positive; locked on internal validation data.
        temperature: of the probabilities.
    """

    name: str
    version: str
    network: nn.Module
    preprocess: Callable[[str | Path], Tensor]
    threshold: float
    temperature: float

    def score(self, path: str | Path) -> float:
        """Difference of the two logits of an image, in double precision, as ``sga-monai evaluate`` writes it.

        Raises:
            InputError: when the image cannot be read, with the reason.
        """
        with torch.no_grad():
            return float(logit_difference(self.network(self.preprocess(path)[None])))

    def probability(self, path: str | Path) -> float:
        """Probability of an image to be positive, at the prevalence of the training set.

        Raises:
            InputError: when the image cannot be read, with the reason.
        """
        score = self.score(path) / self.temperature
        return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def load(bundle: str | Path, public_key: str | Path | None = None) -> LoadedModel:
    """Load a packaged model, after every file of it was compared with its checksums. Nothing of the bundle is executed.

    Args:
        bundle: folder of a bundle, or its zip.
        public_key: of its sender, which came by another way; the signature is checked with it.

    Raises:
        InputError: when the bundle is not what was packaged, or not signed with this key.

    Example:
        >>> import sga_monai
        >>> model = sga_monai.load("dist/sga_cxr-0.1.0")  # doctest: +SKIP
        >>> model.probability("image.dcm")  # doctest: +SKIP
        0.93
    """
    path = Path(bundle)
    if path.suffix != ".zip" or path.is_dir():
        return _load_folder(path, public_key)
    with tempfile.TemporaryDirectory() as temporary:
        return _load_folder(_unpack(path, Path(temporary)), public_key)


def _load_folder(folder: Path, public_key: str | Path | None) -> LoadedModel:
    verify_bundle(folder)
    if public_key is not None:
        verify_signature(folder, public_key)
    reference = read_reference(folder / "reference.json")
    facts = reference["models"][MODEL]
    network = load_models(folder, {**reference, "models": {MODEL: facts}})[MODEL]
    chain = preprocessing(reference_preparation(reference))
    names = (reference["name"], reference["version"])
    return LoadedModel(*names, network, _Preprocess(chain), float(facts["threshold"]), float(facts["temperature"]))


@dataclass(frozen=True)
class _Preprocess:
    """From a path to a prepared image."""

    chain: Compose

    def __call__(self, path: str | Path) -> Tensor:
        try:
            return torch.as_tensor(self.chain({"image": str(path)})["image"])
        except Exception as error:
            # MONAI wraps what its transforms raise, with the path in its message.
            reason = input_error(error)
            if reason is None:
                raise
            raise reason from None


def _unpack(archive: Path, folder: Path) -> Path:
    """The one folder of a zip, unpacked into ``folder``; only names that a bundle's files may have are written."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            names = [entry.filename for entry in entries]
            tops = {name.split("/")[0] for name in names}
            wrong = any(not NAME.fullmatch(name) or ".." in name.split("/") for name in names)
            if len(tops) != 1 or wrong or sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise InputError(f"{archive.name} is not the zip of a bundle; give the one that sga-monai package wrote")
            for entry in entries:
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(opened.read(entry))
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        # A zip with a password is a RuntimeError.
        raise InputError(f"{archive.name} is missing, damaged or no zip that can be read; check the path, or ask for it again") from None
    return folder / tops.pop()
