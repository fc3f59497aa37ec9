"""The embedded phantom: four drawn hospitals whose source site has a shortcut that the others do not share.

At the source site a lead marker follows the label, with a strength that can be chosen. Three external sites have no
marker, a marker independent of the label, and the reversed marker. Every site has its own machine: vendor, bit depth,
photometric interpretation, transfer syntax and gray scale. The lung, lesion and marker masks are kept as ground truth.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from sga_monai.cohorts.anatomy import Chest, ScannerStyle, draw_chest
from sga_monai.core import checks as check
from sga_monai.core.display import track
from sga_monai.core.errors import InputError
from sga_monai.core.files import write_json
from sga_monai.core.folders import one_at_a_time
from sga_monai.core.process import usable_cores
from sga_monai.data.manifest import Row
from sga_monai.data.manifest_writer import replace_manifest

SOURCE = "northgate"
EXTERNAL = ("harbor", "lakeside", "summit")
SPLITS = {"train": 96, "val": 32, "test": 48}
OPTIONS, LOCK = "phantom.json", ".phantom.lock"
MASKS = ("lung", "lesion", "marker")


@dataclass(frozen=True)
class Site:
    """One drawn hospital.

    Attributes:
        name: of the site and its manifest.
        marker: how the marker relates to the label: "follows", "absent", "random" or "reversed".
        shape: rows and columns.
        style: gray scale of the machine.
        manufacturer: DICOM Manufacturer.
        modality: "CR" or "DX".
        photometric: PhotometricInterpretation.
        bits: BitsStored.
        syntax: TransferSyntaxUID.
    """

    name: str
    marker: str
    shape: tuple[int, int]
    style: ScannerStyle
    manufacturer: str
    modality: str
    photometric: str
    bits: int
    syntax: uid.UID


SITES = (
    Site(SOURCE, "follows", (320, 288), ScannerStyle(1.0, 0.03, 0.3, 0.0), "Alder", "DX", "MONOCHROME2", 12, uid.ExplicitVRLittleEndian),
    Site("harbor", "absent", (352, 320), ScannerStyle(0.9, 0.045, 0.5, 0.02), "Birch", "CR", "MONOCHROME1", 10, uid.RLELossless),
    Site("lakeside", "random", (304, 272), ScannerStyle(1.1, 0.02, 0.2, 0.015), "Cedar", "DX", "MONOCHROME1", 14, uid.JPEG2000Lossless),
    Site("summit", "reversed", (336, 304), ScannerStyle(0.95, 0.05, 0.6, 0.0), "Dogwood", "CR", "MONOCHROME2", 8, uid.JPEGLSLossless),
)  # fmt: skip


# From pixels and their bits to the stream of a transfer syntax.
ENCODERS: dict[uid.UID, Callable[[NDArray[Any], int], bytes | bytearray]] = {
    uid.JPEGBaseline8Bit: lambda pixels, _: imagecodecs.jpeg8_encode(pixels, level=90),
    uid.JPEGLosslessSV1: lambda pixels, bits: imagecodecs.ljpeg_encode(pixels, bitspersample=bits),
    uid.JPEGLSLossless: lambda pixels, _: imagecodecs.jpegls_encode(pixels),
    uid.JPEG2000Lossless: lambda pixels, bits: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, bitspersample=bits),
}


def write_phantom(out: str | Path, seed: int = 0, external_images: int = 60, confounding: float = 1.0, scale: int = 1) -> list[Path]:
    """Draw all sites into ``out``: ``images/<site>/*.dcm``, ``masks/<kind>/<site>/*.png``, ``phantom.json``, ``<site>.csv``.

    Args:
        out: the folder, later the ``dataset_dir``; the source site's manifest is written last, so that it is there
            only when everything else is.
        seed: the same seed gives the same files.
        external_images: number of images of each external site, even.
        confounding: r in [0, 1]: at the source site the marker is there for a share (1 + r) / 2 of the diseased and
            (1 - r) / 2 of the others; 0 is no shortcut, 1 is one without exception.
        scale: times as many images at the source site.

    Returns:
        The manifests, source site first.

    Raises:
        InputError: when ``seed``, ``confounding`` or ``scale`` is out of range, or ``external_images`` is, or is odd.
    """
    check.whole("seed", seed, low=0)
    check.number("confounding", confounding, low=0, high=1)
    check.whole("scale", scale, low=1)
    if check.whole("external_images", external_images, low=2) % 2:
        raise InputError(f"external_images must be even, half of each class, got {external_images}; give {external_images + 1}")
    out = Path(out)
    plans = [(site, _plan(site, seed, external_images, scale)) for site in SITES]
    jobs = [(site, row, index) for site, rows in plans for index, row in enumerate(rows)]
    with ProcessPoolExecutor(min(usable_cores(), 8)) as pool:
        done = pool.map(_draw, *zip(*((out, site, row, seed, index, confounding) for site, row, index in jobs), strict=True), chunksize=8)
        for _ in track(done, "drawing the phantom", total=len(jobs)):
            pass
    options = {"seed": seed, "external_images": external_images, "confounding": confounding, "scale": scale}
    write_json(out / OPTIONS, options, indent=None)
    for site, rows in reversed(plans):
        replace_manifest(out / f"{site.name}.csv", rows)
    return [out / f"{site.name}.csv" for site in SITES]


def ensure_phantom(manifest: str | Path, dataset_dir: str | Path) -> None:
    """Write the phantom when ``manifest`` is that of its source site in ``dataset_dir`` and absent; else do nothing."""
    if is_phantom(manifest, dataset_dir):
        draw_once(dataset_dir)


def draw_once(out: str | Path, **options: Any) -> None:
    """Write the phantom where there is none.

    Of processes that begin at once one draws, and the others wait: drawn again, images would be cut short while they are read.

    Args:
        out: the folder.
        options: of ``write_phantom``.
    """
    manifest = Path(out) / f"{SOURCE}.csv"
    if not manifest.exists():
        with one_at_a_time(Path(out) / LOCK):
            if not manifest.exists():
                write_phantom(out, **options)


def is_phantom(manifest: str | Path, dataset_dir: str | Path) -> bool:
    """Whether ``manifest`` is where ``write_phantom(dataset_dir)`` puts the source site's."""
    return Path(manifest).resolve() == (Path(dataset_dir) / f"{SOURCE}.csv").resolve()


def external_of(manifest: str | Path, dataset_dir: str | Path) -> list[str]:
    """The external manifests of a training that names none: the phantom's three where ``is_phantom``, and none otherwise."""
    return [str(Path(dataset_dir) / f"{name}.csv") for name in EXTERNAL] if is_phantom(manifest, dataset_dir) else []


def draw_phantom(phantom: str | Path, path: str | Path, read: Callable[[Path], NDArray[np.float32]]) -> None:
    """A PNG of up to six images of each site, both classes, one row a site.

    Args:
        phantom: a folder that ``write_phantom`` filled.
        path: the PNG.
        read: reader of one image, rows x columns in [0, 1].

    Raises:
        InputError: when ``phantom`` holds no phantom.
    """
    files = [sorted((Path(phantom) / "images" / site.name).glob("*.dcm")) for site in SITES]
    count = min(6, *(len(found) for found in files))
    if not count:
        raise InputError("no phantom in this folder; write one with sga-monai phantom")
    rows = []
    for found in files:
        tiles = [Image.fromarray(np.uint8(255 * read(file))).resize((216, 240)) for file in found[-count:]]
        rows.append(np.hstack([np.asarray(tile) for tile in tiles]))
    Image.fromarray(np.vstack(rows)).save(path)


def _plan(site: Site, seed: int, external_images: int, scale: int) -> list[Row]:
    """Manifest rows of one site; labels alternate, and every fourth patient has two images of the same label."""
    rng = np.random.default_rng((seed, SITES.index(site), 10_000))
    rows: list[Row] = []
    patient = 0
    for split, count in SPLITS.items() if site.name == SOURCE else [("test", external_images)]:
        done = 0
        count *= scale if site.name == SOURCE else 1
        while done < count:
            # Pairs of patients, one of each class, so that classes stay equal.
            images = 2 if patient % 8 < 2 and count - done >= 4 else 1
            for label in ("0", "1"):
                key = f"{site.name}-{patient:03d}"
                sex, age = str(rng.choice(["F", "M"])), str(int(rng.integers(20, 89)))
                for k in range(images):
                    name = f"{key}-{k}"
                    rows.append(
                        {
                            "image": f"images/{site.name}/{name}.dcm",
                            "label": label,
                            "patient_id": key,
                            "site": site.name,
                            "split": split,
                            "view": str(rng.choice(["AP", "PA"])),
                            "sex": sex,
                            "age": age,
                            "manufacturer": site.manufacturer,
                            "lung_mask": f"masks/lung/{site.name}/{name}.png",
                        }
                    )
                patient += 1
            done += 2 * images
    return rows


def _draw(out: Path, site: Site, row: Row, seed: int, index: int, confounding: float) -> None:
    """Draw and write one image with its masks; all randomness is a function of (seed, site, index)."""
    rng = np.random.default_rng((seed, SITES.index(site), index))
    diseased = row["label"] == "1"
    # Its own generator, so that the chest is the same whatever the strength.
    follows = np.random.default_rng((seed, SITES.index(site), index, 1)).random() < (1 + confounding) / 2
    marked = {"follows": diseased == follows, "absent": False, "random": bool(rng.integers(2)), "reversed": not diseased}
    letter = "R" if marked[site.marker] else None
    chest = draw_chest(rng, site.shape, site.style, diseased, letter, row["view"], row["sex"])
    write_dicom(out / row["image"], chest, site, row, seed, index)
    for kind in MASKS:
        path = out / row["lung_mask"].replace("masks/lung", f"masks/{kind}")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(255) * getattr(chest, kind)).save(path)


def write_dicom(path: Path, chest: Chest, site: Site, row: Row, seed: int, index: int) -> None:
    """Write a drawn chest as a DICOM file.

    Args:
        path: the file.
        chest: of ``draw_chest``.
        site: its ``bits``, ``photometric`` and ``syntax`` are honored.
        row: ``patient_id, sex, age, view``.
        seed: of the drawing, for the UIDs.
        index: of the image at its site, for the UIDs.
    """
    top = (1 << site.bits) - 1
    pixels = np.rint(chest.image * top)
    pixels = (top - pixels if site.photometric == "MONOCHROME1" else pixels).astype(np.uint8 if site.bits == 8 else np.uint16)
    meta = pydicom.dataset.FileMetaDataset()
    storage = uid.DigitalXRayImageStorageForPresentation if site.modality == "DX" else uid.ComputedRadiographyImageStorage
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = uid.generate_uid(entropy_srcs=["sga_monai", site.name, str(seed), str(index)])
    meta.TransferSyntaxUID = site.syntax
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = uid.generate_uid(entropy_srcs=["study", site.name, str(seed), row["patient_id"]])
    dataset.SeriesInstanceUID = uid.generate_uid(entropy_srcs=["series", site.name, str(seed), str(index)])
    dataset.PatientID, dataset.PatientName, dataset.PatientSex = row["patient_id"], "Phantom^Drawn", row["sex"]
    dataset.PatientAge = f"{int(row['age']):03d}Y"
    dataset.Modality, dataset.Manufacturer, dataset.ViewPosition = site.modality, site.manufacturer, row["view"]
    dataset.BodyPartExamined, dataset.BurnedInAnnotation = "CHEST", "NO"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, site.photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.itemsize, site.bits, site.bits - 1
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.WindowCenter, dataset.WindowWidth = (top + 1) / 2, top + 1
    if site.modality == "DX":
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.PresentationLUTShape = "INVERSE" if site.photometric == "MONOCHROME1" else "IDENTITY"
    if site.syntax == uid.RLELossless:
        dataset.compress(uid.RLELossless, pixels, encoding_plugin="pydicom", generate_instance_uid=False)
    elif site.syntax in ENCODERS:
        dataset.PixelData = encapsulate([bytes(ENCODERS[site.syntax](pixels, site.bits))])
    else:
        dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if site.syntax.is_encapsulated else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    # By way of memory: pydicom would hide the reason when the disk is full.
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
