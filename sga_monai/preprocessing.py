"""The bundle's preprocessing as Python, for what runs without a configuration; a test keeps the two equal."""

from __future__ import annotations

from typing import Any

from monai.transforms import Compose, LoadImaged, Resized

from sga_monai.intensity import ScalePercentilesd
from sga_monai.reader import CXRReader


def preprocessing(image_size: int, voi: str = "dicom") -> Compose:
    """From ``image`` (a path) to ``image`` ``[1, image_size, image_size]`` float32 in [0, 1], and ``image_meta_dict``.

    Args:
        image_size: pixels of a side.
        voi: see ``read_cxr``.
    """
    # LoadImaged takes an instance, whatever its annotation says.
    reader: Any = CXRReader(voi)
    return Compose(
        [
            LoadImaged(keys="image", reader=reader, image_only=False, ensure_channel_first=True),
            Resized(keys="image", spatial_size=[image_size, image_size], mode="area"),
            ScalePercentilesd(keys="image", lower=0.5, upper=99.5),
        ]
    )
