from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import fields
from html import escape, unescape
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from fixtures import warm
from monai.engines import SupervisedTrainer
from PIL import Image
from pydicom import uid
from torch import nn

from sga_monai.cohorts.anatomy import ScannerStyle, draw_chest
from sga_monai.sga import Attack, Augmentation, Domain, GroupWeights, Masking, Objective, SGAIteration

pytest_plugins = ["fixtures.artifacts", "fixtures.orthanc"]
# As many threads in all as there would be without pytest-xdist's workers, which would otherwise wait for each other.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
# The process that starts the workers has set it for itself, and they inherit that.
if os.environ.get("OMP_NUM_THREADS") == os.environ.get("SGA_TEST_THREADS"):
    os.environ["OMP_NUM_THREADS"] = os.environ["SGA_TEST_THREADS"] = str(max((os.cpu_count() or 1) // WORKERS, 1))
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
ROOT = Path(__file__).resolve().parents[1]
# Files that take longest, in this order: begun last, one worker would wait for the other.
LONGEST = (
    "test_site", "test_faults", "test_export", "test_bundle", "test_experiment", "test_inspection", "test_wheel", "test_privacy",
    "test_accounting",
)  # fmt: skip
MOST_SECONDS = 300
BEGAN = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the tests of a file stay in one process, since they share what its fixtures made."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say when the default tests, which are run before every commit, have become slow."""
    seconds = time.monotonic() - BEGAN
    if seconds > MOST_SECONDS and not terminalreporter.config.option.markexpr.count(" or "):
        text = f"the tests took {seconds:.0f} s, more than {MOST_SECONDS} s: see --durations=20, and mark what is long as slow"
        terminalreporter.write_line(text, yellow=True)


def pytest_unconfigure() -> None:
    warm.close()


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("SGA_DATA", ROOT.parent / "shared/data"))
    if not (folder / "cohen/metadata.csv").is_file():
        pytest.skip("real radiographs are absent")
    return folder


# A page in a frame as wide as a phone, and after it what is wider than the frame and in no box that scrolls.
PHONE = """<iframe style="border: 0; width: 360px; height: 800px" srcdoc="%s"></iframe><script>onload = () => {
  const page = document.querySelector("iframe").contentDocument, width = page.documentElement.clientWidth;
  const over = [...page.querySelectorAll("main *")].filter(one => one.getBoundingClientRect().right > width + 1 && !one.closest(".hidden")
    && !(one.parentElement.closest(".wide")));
  const out = document.createElement("pre"); out.id = "over";
  out.textContent = JSON.stringify(over.map(one => one.outerHTML.slice(0, 80))); document.body.append(out); };</script>"""


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory):
    """A function that runs headless Chromium with further options, on a page, and returns what it prints."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium")
    profile = tmp_path_factory.mktemp("profile")

    def run(page: Path, *options: str) -> str:
        always = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars".split()
        command = [program, *always, f"--user-data-dir={profile}", *options, page.resolve().as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    return run


@pytest.fixture(scope="session")
def phone(chromium, tmp_path_factory: pytest.TempPathFactory):
    """A function that shows a page 360 pixels wide and returns the beginnings of what is wider and cannot be scrolled."""
    copy = tmp_path_factory.mktemp("phone") / "page.html"

    def over(page: Path) -> list[str]:
        # A page forbids scripts; the copy that is looked at has one.
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
        copy.write_text(PHONE % escape(text.replace("<details>", "<details open>")), encoding="utf-8")
        found = re.search(r'<pre id="over">(.*?)</pre>', chromium(copy, "--virtual-time-budget=5000", "--dump-dom"), re.DOTALL)
        assert found, "the page was not drawn"
        return json.loads(unescape(found[1]))

    return over


@pytest.fixture(scope="session")
def browser(chromium, tmp_path_factory: pytest.TempPathFactory):
    """A function that shows a page in headless Chromium, 1000 x 2400, and returns the picture."""
    shot = tmp_path_factory.mktemp("browser") / "page.png"

    def show(page: Path) -> Image.Image:
        chromium(page, f"--screenshot={shot}", "--window-size=1000,2400")
        with Image.open(shot) as picture:
            return picture.copy()

    return show


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bootstrap intervals of a report from 20 samples instead of 1,000, for tests that look at other figures."""
    take_few_samples(monkeypatch)


def take_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """See ``few_samples``; for fixtures that live longer than a test."""
    from sga_monai.hospital import performance, recalibration, reference

    names = ("average_precision", "assess_calibration", "calibration_figures", "decision_band")
    for module, name in (
        *((performance, name) for name in names),
        *((module, "assess_calibration") for module in (reference, recalibration)),
    ):
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), n_samples=20))


def equal(a: object, b: object) -> bool:
    """Whether two state dicts are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


class LinearNet(nn.Module):
    """Logits 0 and w . x, so that the gradient of logit 1 is w and of logit 0 is zero."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


class TinyNet(nn.Module):
    """A small network with BatchNorm and dropout."""

    def __init__(self, batch_norm: bool = True, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.fc(self.dropout(x))


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """``network`` with random biases and, in BatchNorm, random statistics and affine parameters."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.3, generator=generator)
    return network


@pytest.fixture(scope="session")
def drawn() -> np.ndarray:
    """A drawn radiograph of 12 bits, 320 x 256, not a square, with the marker R in the upper corner."""
    style = ScannerStyle(gamma=1.0, noise=0.02, sharpen=0.3, collimation=0.0)
    chest = draw_chest(np.random.default_rng(0), (320, 256), style, diseased=True, marker="R")
    return np.rint(4090 * chest.image).astype(np.uint16)


@pytest.fixture
def dicom_file(tmp_path: Path):
    """A function that writes a CR file of ``pixels`` with changed attributes and returns its path."""

    def write(pixels: np.ndarray, syntax: str = uid.ExplicitVRLittleEndian, name: str = "a.dcm", **attributes: object) -> Path:
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.ComputedRadiographyImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid.generate_uid()
        dataset.PatientName, dataset.PatientID = "DOE^SECRET", "MRN-0012345"
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
        dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        data = pixels.astype(pixels.dtype.newbyteorder(">")) if syntax == uid.ExplicitVRBigEndian else pixels
        dataset.PixelData = data.tobytes()
        dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
        for key, value in attributes.items():
            if value is None:
                delattr(dataset, key)
            else:
                setattr(dataset, key, value)
        if "BitsStored" in attributes and "HighBit" not in attributes:
            dataset.HighBit = dataset.BitsStored - 1
        path = tmp_path / name
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


def batches(n: int = 3, batch: int = 4, size: int = 12, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"image": torch.rand(batch, 1, size, size, generator=generator), "label": torch.arange(batch) % 2} for _ in range(n)]


def train(network: nn.Module, iteration, data, epochs: int = 2, device: str = "cpu", **options) -> SupervisedTrainer:
    trainer = SupervisedTrainer(
        device=torch.device(device),
        max_epochs=epochs,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        loss_function=nn.CrossEntropyLoss(),
        iteration_update=iteration,
        decollate=False,
        **options,
    )
    trainer.run()
    return trainer


def iteration(**flat: object) -> SGAIteration:
    """An ``SGAIteration`` from options by their ids in train.json."""
    parts = {"masking": Masking, "attack": Attack, "objective": Objective, "domain": Domain}
    given = {}
    for part, kind in parts.items():
        given[part] = kind(**{field.name: flat.pop(field.name) for field in fields(kind) if field.name in flat})
    given["augmentation"] = Augmentation(flat.pop("augmentation", None))
    return SGAIteration(**given, groups=GroupWeights(flat.pop("group_dro_step", 0.0)), **flat)
