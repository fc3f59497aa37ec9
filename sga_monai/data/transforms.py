"""Preprocessing of a radiograph: load, resize, scale between two percentiles."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Compose, LoadImaged, MapTransform, Resized
from numpy.typing import NDArray

from sga_monai.core.errors import InputError
from sga_monai.data.cxr_reader import CXRReader
from sga_monai.model.preparation import Preparation


def preprocessing(preparation: Preparation) -> Compose:
    """From ``image`` (a path) to ``image`` ``[1, image_size, image_size]`` float32 in [0, 1], and ``image_meta_dict``.

    Example:
        >>> chain = preprocessing(Preparation(image_size=112))
    """
    # LoadImaged takes an instance, whatever its annotation says.
    reader: Any = CXRReader(preparation.voi, orientation=preparation.orientation)
    size = preparation.image_size
    return Compose(
        [
            LoadImaged(keys="image", reader=reader, image_only=False, ensure_channel_first=True),
            Resized(keys="image", spatial_size=[size, size], mode="area"),
            ScalePercentilesd(keys="image", lower=0.5, upper=99.5),
        ]
    )


class ScalePercentilesd(MapTransform):
    """Map the ``lower`` and ``upper`` percentile of each image to 0 and 1 and clip, as ``ScaleIntensityRangePercentilesd``.

    By partition instead of sorting: 0.6 instead of 6 ms for 224 x 224, and the image is a plain tensor after it. Padding that
    ``CXRReader`` found does not count, so that an image has the same values with and without it; between the two may stand
    ``Resized``, but nothing that turns or crops.

    Args:
        keys: of the images, any shape.
        lower: percentile, in [0, 100).
        upper: percentile, in (lower, 100].
    """

    def __init__(self, keys: KeysCollection, lower: float = 0.5, upper: float = 99.5) -> None:
        super().__init__(keys)
        if not 0 <= lower < upper <= 100:
            raise InputError(f"lower and upper must be percentiles with lower < upper, got {lower!r} and {upper!r}")
        self.lower = lower
        self.upper = upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of ``data`` with float32 tensors in [0, 1]; an image whose percentiles are equal becomes 0."""
        result = dict(data)
        for key in self.key_iterator(result):
            padding = getattr(result[key], "meta", {}).get("padding")
            image = np.asarray(result[key], dtype=np.float32)
            shown = image if padding is None else _unpadded(image, np.asarray(padding))
            low, high = np.percentile(shown, (self.lower, self.upper))
            scaled = np.zeros_like(image)
            if high > low:
                scaled = np.clip((image - np.float32(low)) / np.float32(max(high - low, np.finfo(np.float32).tiny)), 0, 1)
            result[key] = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
        return result


def _unpadded(image: NDArray[np.float32], padding: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The pixels of ``image``, whose last axes are rows and columns, that no pixel of ``padding`` was resized into."""
    for axis in (0, 1):
        size, length = padding.shape[axis], image.shape[axis - 2]
        # The bins of an area resize.
        bins = [(i * size // length, -(-(i + 1) * size // length)) for i in range(length)]
        padding = np.stack([np.take(padding, range(*ends), axis).any(axis) for ends in bins], axis)
    shown: NDArray[np.float32] = image[..., ~padding]
    return shown if shown.size else image
