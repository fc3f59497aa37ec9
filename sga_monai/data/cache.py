"""Prepared images on disk: memory-mapped, found by what was read and how it was prepared, verified at every read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sga_monai.core.errors import DiskError, InputError
from sga_monai.core.live_objects import describe
from sga_monai.core.provenance import code_digest, versions

HEADER_BYTES = 512
MAGIC = b"sga_monai image\n"


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError("the cache", error.errno or 0) from None


class ImageCache:
    """A folder of prepared images, one file each, named by the SHA-256 of the source file.

    Files lie in a subfolder for each preprocessing and set of package versions, so that neither can mix. They are
    written whole or not at all (temporary file, rename): two programs may write the same folder. A file that is damaged
    is as good as absent. The folder is readable by its owner alone, since prepared images are still patients' images.

    Args:
        cache_dir: the folder.
        transform: the preprocessing; see ``describe``.

    Raises:
        DiskError: when the folder cannot be made.
    """

    def __init__(self, cache_dir: str | Path, transform: Any) -> None:
        facts = {"transform": describe(transform), "versions": versions(), "code": code_digest()}
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.folder = Path(cache_dir) / key[:16]
        with _disk_errors():
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

    def pack(self, sha256: Sequence[str]) -> PackedImages:
        """The images of these files, in this order, verified once and then in one memory-mapped array.

        The array is a file beside the images; two programs that need the same share it.

        Raises:
            InputError: when an image is no longer in the cache, or is damaged.
            DiskError: when the disk will not take it.
        """
        path = self.folder / f"{hashlib.sha256(''.join(sha256).encode()).hexdigest()}.packed"
        if not _is_packed(path):
            self._write(path.name, (self._sound(name) for name in sha256))
        return PackedImages(path)

    def _sound(self, sha256: str) -> NDArray[np.float32]:
        found = self.get(sha256)
        if found is None:
            raise InputError("the cache was changed during the run; start again")
        return found[0]

    def put(self, sha256: str, image: NDArray[np.float32], **facts: Any) -> None:
        """Keep ``image``, float32 of any shape, as prepared from the file with this hash.

        Raises:
            DiskError: when the disk will not take it; what was there before is intact.
        """
        self._write(sha256, [np.ascontiguousarray(image, dtype=np.float32)], image.shape, facts=facts)

    @_disk_errors()
    def _write(self, name: str, images: Iterable[NDArray[np.float32]], shape: Sequence[int] | None = None, **facts: Any) -> None:
        """One file of a header and the images one behind the other, whole or not at all; ``shape`` is counted where ``None``."""
        descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(b" " * HEADER_BYTES)
                digest, count = hashlib.sha256(), 0
                for image in images:
                    stream.write(image.data)
                    digest.update(image.data)
                    count += 1
                header = {"shape": shape or (count, *image.shape), "sha256": digest.hexdigest(), **facts}
                stream.seek(0)
                stream.write((MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES))
            Path(temporary).replace(self.folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise


class PackedImages:
    """The images of a dataset as one array ``[N, ...]`` on disk. Reading one costs no copy, and is refused once the file was changed.

    Args:
        path: of ``ImageCache.pack``, whose content was verified.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Kept open: another program may put an equal file in its place, and this one is then still whole.
        self.stream = path.open("rb")
        header = json.loads(self.stream.read(HEADER_BYTES).removeprefix(MAGIC))
        self.state = self._state()
        # Copy on write: who changes an image in place changes a page of this process and no file.
        mapped = np.memmap(self.stream, dtype=np.float32, mode="c", offset=HEADER_BYTES, shape=tuple(header["shape"]))
        self.images = torch.from_numpy(mapped)

    def __len__(self) -> int:
        return len(self.images)

    def views(self, indices: Iterable[int]) -> list[Tensor]:
        """Images as views of the file.

        Raises:
            InputError: when the file was changed since it was opened.
        """
        if self._state() != self.state:
            raise InputError("the cache was changed during the run; start again")
        return [self.images[index] for index in indices]

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self.stream.fileno())
        return status.st_size, status.st_mtime_ns

    def __reduce__(self) -> tuple[type[PackedImages], tuple[Path]]:
        # A reading process maps the file itself.
        return PackedImages, (self.path,)


def _is_packed(path: Path) -> bool:
    """Whether a whole and sound array lies there."""
    try:
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as stream:
            header = json.loads(stream.read(HEADER_BYTES).removeprefix(MAGIC))
            while block := stream.read(1 << 20):
                digest.update(block)
                size += len(block)
        return bool(digest.hexdigest() == header["sha256"] and size == 4 * math.prod(header["shape"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
