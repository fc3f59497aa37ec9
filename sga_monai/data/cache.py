"""Prepared images on disk: memory-mapped, found by what was read and how it was prepared, verified at every read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sga_monai.core.provenance import code_digest, describe, versions

HEADER_BYTES = 512
MAGIC = b"sga_monai image\n"


class ImageCache:
    """A folder of prepared images, one file each, named by the SHA-256 of the source file.

    Files lie in a subfolder for each preprocessing and set of package versions, so that neither can mix. They are
    written whole or not at all (temporary file, rename): two programs may write the same folder. A file that is damaged
    is as good as absent. The folder is readable by its owner alone, since prepared images are still patients' images.

    Args:
        cache_dir: the folder.
        transform: the preprocessing; see ``describe``.
    """

    def __init__(self, cache_dir: str | Path, transform: Any) -> None:
        facts = {"transform": describe(transform), "versions": versions(), "code": code_digest()}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.folder = Path(cache_dir) / key[:16]
        # A folder that is there already keeps its mode: it may be everybody's.
        Path(cache_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.mkdir(exist_ok=True, mode=0o700)

    def get(self, sha256: str) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
        """The image prepared from the file with this hash, memory-mapped and read-only, and its facts; or ``None``."""
        path = self.folder / sha256
        try:
            with path.open("rb") as stream:
                header = json.loads(stream.read(HEADER_BYTES).removeprefix(MAGIC))
            image = np.memmap(path, dtype=np.float32, mode="r", offset=HEADER_BYTES, shape=tuple(header["shape"]))
            sound = hashlib.sha256(image.data).hexdigest() == header["sha256"]
            return (image, header["facts"]) if sound else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, sha256: str, image: NDArray[np.float32], **facts: Any) -> None:
        """Keep ``image``, float32 of any shape, as prepared from the file with this hash.

        Raises:
            OSError: when the disk will not take it; what was there before is intact.
        """
        image = np.ascontiguousarray(image, dtype=np.float32)
        header = {"shape": image.shape, "sha256": hashlib.sha256(image.data).hexdigest(), "facts": facts}
        descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write((MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES))
                stream.write(image.data)
            Path(temporary).replace(self.folder / sha256)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
