"""Images read once, prepared and kept in memory or in a cache; an image that cannot be read is named by its row."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import Dataset

from sga_monai.core.errors import InputError, ReadError
from sga_monai.data.cache import ImageCache
from sga_monai.data.manifest import MOST_ERRORS
from sga_monai.data.parallel import read_rows
from sga_monai.data.sets import is_internal
from sga_monai.imaging.fingerprint import fingerprint
from sga_monai.imaging.read import read_bytes, sha256_of

META = "image_meta_dict"


class CXRDataset(Dataset):
    """Every row through ``transform`` at construction; later from memory, or memory-mapped from ``cache_dir``.

    Args:
        data: data dictionaries of ``load_manifest``. Where a row has a ``sha256``, it is compared with the bytes that
            were decoded.
        transform: the deterministic preprocessing; its ``LoadImaged`` must have ``image_only`` false.
        skip_failed: keep the rows that can be read and list the others in ``failures``, instead of refusing all.
        cache_dir: folder of an ``ImageCache``; ``None`` keeps the images in memory (224 x 224 in float32 are 200 kB).
        num_workers: processes that read and decode; 0 reads in this one.

    Attributes:
        failures: ``row, label, patient, set`` and the reason ``code`` of each row that could not be read.
        sha256: of the file of each kept row.
        fingerprints: of each kept row's prepared image, by which ``refuse_near_duplicates`` finds the same picture again.

    Raises:
        InputError: naming the rows that cannot be read, unless ``skip_failed``; when none can be read.
        WorkerError: when a reading process died, or one image took longer than 45 s.
        DiskError: when the cache cannot be written.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[..., Any],
        skip_failed: bool = False,
        cache_dir: str | None = None,
        num_workers: int = 0,
    ) -> None:
        self.cache = None if cache_dir is None else ImageCache(cache_dir, transform)
        self.failures: list[dict[str, Any]] = []
        self.sha256: list[str] = []
        self.fingerprints: list[bytes] = []
        self.images: list[torch.Tensor] = []
        kept = []
        for item, result in zip(data, read_rows(data, RowReader(transform, self.cache), num_workers), strict=True):
            if "code" in result:
                facts = {key: item[key] for key in ("row", "label", "patient", "set")}
                self.failures.append(facts | {"code": result["code"]})
                continue
            kept.append({key: value for key, value in item.items() if key != "image"} | {"burned_in": result["burned_in"]})
            self.sha256.append(result["sha256"])
            self.fingerprints.append(bytes.fromhex(result["fingerprint"]))
            if self.cache is None:
                self.images.append(torch.from_numpy(result["image"]))
        refuse_unreadable(self.failures, len(data), some_are_kept=skip_failed and bool(kept))
        self.packed = None if self.cache is None else self.cache.pack(self.sha256)
        super().__init__(kept, None)

    def __getitem__(self, index: Any) -> Any:
        """The data dictionary of one row: ``image`` ``[1, H, W]`` float32, ``label, row, patient, set, burned_in``."""
        (item,) = self.__getitems__([index])
        return item

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Those of several rows, as torch's loaders ask for a mini-batch: whether the cache was changed is looked up once."""
        images = [self.images[index] for index in indices] if self.packed is None else self.packed.views(indices)
        return [self.data[index] | {"image": image} for index, image in zip(indices, images, strict=True)]


class RowReader:
    """From a row to its prepared image, by way of the cache where there is one.

    Args:
        transform: the deterministic preprocessing; its ``LoadImaged`` must have ``image_only`` false.
        cache: prepared images; ``None`` prepares each image anew.
    """

    def __init__(self, transform: Callable[..., Any], cache: ImageCache | None = None) -> None:
        self.transform = transform
        self.cache = cache

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """``sha256`` of the file, ``burned_in``, ``fingerprint`` and, without a cache, ``image`` ``[1, H, W]`` float32.

        Raises:
            ReadError: when the file cannot be read, or is not the one whose ``sha256`` the manifest gives.
        """
        if self.cache is not None:
            sha256 = sha256_of(read_bytes(item["image"]))
            found = self.cache.get(sha256)
            if found is not None:
                _compare(item, sha256)
                return {"sha256": sha256, **found[1]}
        # MONAI's transforms write into the dictionary they are given.
        prepared = self.transform(copy.copy(item))
        if META not in prepared:
            raise InputError("preprocessing must keep image_meta_dict: set image_only to false in LoadImaged")
        sha256, burned_in = prepared[META]["sha256"], bool(prepared[META]["burned_in"])
        _compare(item, sha256)
        image = np.array(prepared["image"])
        facts = {"burned_in": burned_in, "fingerprint": fingerprint(image[0]).hex()}
        if self.cache is None:
            return {"sha256": sha256, "image": image, **facts}
        self.cache.put(sha256, image, **facts)
        return {"sha256": sha256, **facts}


def refuse_unreadable(failures: Sequence[Mapping[str, Any]], n_rows: int, some_are_kept: bool) -> None:
    """Refuse a set with images that cannot be read, unless the others are kept.

    Raises:
        InputError: naming the first rows with their reasons.
    """
    if failures and not some_are_kept:
        first = "; ".join(f"{failure['set']} row {failure['row']}: {ReadError(failure['code'])}" for failure in failures[:MOST_ERRORS])
        raise InputError(f"{len(failures)} of {n_rows} images cannot be read: {first}")


def _compare(item: dict[str, Any], sha256: str) -> None:
    if item.get("sha256") and item["sha256"] != sha256:
        raise ReadError("hash")


def refuse_same_bytes(datasets: Sequence[CXRDataset]) -> None:
    """Refuse one file under two rows, in one set or in two: a leak, or a case counted twice.

    Two external sets of one dataset may share files: each has its own figures, and nothing is trained or chosen on them.

    Args:
        datasets: datasets that must not share a file.

    Raises:
        InputError: naming the two rows.
    """
    seen: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, dataset in enumerate(datasets):
        for item, sha256 in zip(dataset.data, dataset.sha256, strict=True):
            for other, first in seen.setdefault(sha256, []):
                names = first["set"], item["set"]
                external = not any(map(is_internal, names))
                if other != number or names[0] == names[1] or not external:
                    raise InputError(
                        f"{names[0]} row {first['row']} and {names[1]} row {item['row']} are the same file, byte for byte; remove one"
                    )
            seen[sha256].append((number, item))
