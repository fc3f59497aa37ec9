"""What a validation would do and how long it would take, without writing anything."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from sga_monai.cohorts.from_dicom import manifest_from_dicom
from sga_monai.cohorts.listing import Listing
from sga_monai.data.pseudonyms import new_site_key
from sga_monai.hospital.evaluate import load_models
from sga_monai.hospital.reference import read_reference
from sga_monai.hospital.site import MANIFEST, SITE_KEY, Site

# Decoding a radiograph of 10 megapixels takes up to this long on one core; each is read twice.
READ_S, TIMES_READ = 0.1, 2
TRIAL = 4


@dataclass(frozen=True)
class Forecast:
    """What a validation would do.

    Attributes:
        listing: what would become of every file and every label.
        images: rows that would be scored.
        minutes: how long that would take on this machine, roughly.
    """

    listing: Listing
    images: int
    minutes: float


def forecast(site: Site) -> Forecast:
    """Read the headers alone, in a temporary folder, and estimate the time: one trial of the network, and of decoding a limit.

    Raises:
        InputError: see ``manifest_from_dicom``.
    """
    with tempfile.TemporaryDirectory() as name:
        key = site.site_key or Path(name) / SITE_KEY
        if site.site_key is None:
            new_site_key(key)
        listing = manifest_from_dicom(site.images, site.labels, site.name, key, Path(name) / MANIFEST)
    images = listing.files["listed"][0]
    reading = images * TIMES_READ * READ_S / max(site.num_workers, 1)
    return Forecast(listing, images, (reading + images * _seconds_an_image(site.bundle)) / 60)


def _seconds_an_image(bundle: Path) -> float:
    """Of all models and controls, by a trial with blank images."""
    reference = read_reference(bundle / "reference.json")
    size = reference["image_size"]
    networks = load_models(bundle, reference)
    blank = torch.zeros(TRIAL, 1, size, size)
    with torch.no_grad():
        for network in networks.values():
            network(blank)
        began = time.perf_counter()
        for network in networks.values():
            network(blank)
    # Beside the plain image each control is one more pass of the model: center, border, planted tag.
    return 4 * (time.perf_counter() - began) / TRIAL
