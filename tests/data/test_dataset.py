from __future__ import annotations

import errno
import functools
import gc
import os
import pickle
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from monai.bundle import ConfigParser
from monai.transforms import Resize, ScaleIntensityRangePercentiles
from PIL import Image

from sga_monai.core.errors import DiskError, InputError, WorkerError
from sga_monai.core.live_objects import describe
from sga_monai.data import parallel as reading
from sga_monai.data.cache import ImageCache
from sga_monai.data.dataset import CXRDataset, refuse_same_bytes
from sga_monai.data.transforms import ScalePercentilesd, preprocessing
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.read import read_cxr, sha256_of
from sga_monai.model.preparation import Preparation


def our_chain(image_size: int):
    return preprocessing(Preparation(image_size))


@pytest.fixture(scope="module", autouse=True)
def short_waits():
    """How long torch waits for each process of a reader that was left before it ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
        yield
        gc.collect()


@pytest.fixture
def rows(tmp_path: Path) -> list[dict]:
    """Six rows; the fourth image is cut short."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(6):
        path = tmp_path / f"DOE-SECRET-{i}.png"
        Image.fromarray(rng.integers(0, 255, (40 + i, 50), dtype=np.uint8)).save(path)
        if i == 3:
            path.write_bytes(path.read_bytes()[:300])
        made.append({"image": str(path), "label": i % 2, "row": i + 2, "patient": i, "set": "site", "sha256": ""})
    return made


def arrays(dataset: CXRDataset) -> list[np.ndarray]:
    return [np.asarray(dataset[i]["image"]) for i in range(len(dataset))]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cached", [False, True])
def test_a_bad_image_is_counted_and_the_others_are_the_same_however_they_are_read(rows, tmp_path, num_workers, cached):
    expected = CXRDataset(rows, our_chain(32), skip_failed=True)
    for _ in range(2):
        cache_dir = str(tmp_path / "cache") if cached else None
        dataset = CXRDataset(rows, our_chain(32), skip_failed=True, cache_dir=cache_dir, num_workers=num_workers)
        assert dataset.failures == [{"row": 5, "label": 1, "patient": 3, "set": "site", "code": "truncated"}]
        assert [dataset[i]["row"] for i in range(5)] == [2, 3, 4, 6, 7]
        assert dataset.sha256 == [sha256_of(Path(row["image"]).read_bytes()) for row in rows if row["row"] != 5]
        for ours, theirs in zip(arrays(dataset), arrays(expected), strict=True):
            assert np.array_equal(ours, theirs)
    with pytest.raises(InputError, match=r"1 of 6 images cannot be read: site row 5: the pixel data are cut short"):
        CXRDataset(rows, our_chain(32), num_workers=num_workers)


def test_bad_images_first_last_and_all(rows):
    bad = rows[3]
    for order, kept in (([3, 0, 1], 2), ([0, 1, 3], 2)):
        assert len(CXRDataset([rows[i] for i in order], our_chain(32), skip_failed=True)) == kept
    with pytest.raises(InputError, match="1 of 1 images cannot be read"):
        CXRDataset([bad], our_chain(32), skip_failed=True)


def test_hash_is_of_the_bytes_that_are_decoded(rows, tmp_path, monkeypatch):
    row = rows[0] | {"sha256": sha256_of(Path(rows[0]["image"]).read_bytes())}
    for cache_dir in (None, str(tmp_path / "cache")):
        assert len(CXRDataset([row], our_chain(32), cache_dir=cache_dir)) == 1
    wrong = rows[1] | {"sha256": row["sha256"]}
    for cache_dir in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        with pytest.raises(InputError, match="site row 3: not the file whose sha256 the manifest gives"):
            CXRDataset([wrong], our_chain(32), cache_dir=cache_dir)

    # Swapped between the look into the cache and the decoding: what was decoded is what counts.
    def swap(data: dict, chain) -> dict:
        Path(data["image"]).write_bytes(Path(rows[1]["image"]).read_bytes())
        return chain(data)

    with pytest.raises(InputError, match="not the file whose sha256"):
        CXRDataset([row], functools.partial(swap, chain=our_chain(32)))


def test_cache_is_not_decoded_again_and_knows_its_settings(rows, tmp_path, monkeypatch):
    good = [row for row in rows if row["row"] != 5]
    cache_dir = str(tmp_path / "cache")
    first = arrays(CXRDataset(good, our_chain(32), cache_dir=cache_dir))
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    # The folder of these settings, an image each, and all of them as one array.
    assert len(list((tmp_path / "cache").rglob("*"))) == 1 + len(good) + 1

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("sga_monai.data.cxr_reader.decode", never)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(CXRDataset(good, our_chain(32), cache_dir=cache_dir)), first, strict=True))
    with pytest.raises(RuntimeError, match="AssertionError"):
        CXRDataset(good, our_chain(48), cache_dir=cache_dir)


def test_a_cache_of_another_version_or_of_other_code_is_not_taken(tmp_path, monkeypatch):
    chains = (our_chain(32), our_chain(48), *(preprocessing(Preparation(32, *given)) for given in (("none",), ("dicom", "stored"))))
    folders = [ImageCache(tmp_path, chain).folder for chain in (*chains, our_chain(32))]
    assert folders[0] == folders.pop()
    for name in ("versions", "code_digest"):
        monkeypatch.setattr(f"sga_monai.data.cache.{name}", lambda: "another")
        folders.append(ImageCache(tmp_path, our_chain(32)).folder)
        monkeypatch.undo()
    assert len(set(folders)) == 6


def test_preparation_is_monais_resize_and_scaling_between_the_percentiles(rows):
    image = read_cxr(rows[2]["image"])
    small = Resize((32, 32), mode="area")(image[None])
    expected = ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)(small)
    found = our_chain(32)({"image": rows[2]["image"]})["image"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.as_tensor(expected).float(), rtol=0, atol=1e-5)
    assert (found == 0).sum() > 1
    assert (found == 1).sum() > 1


def test_every_setting_of_the_preparation_reaches_the_reader():
    for given in (("dicom", "header"), ("none", "stored")):
        loader = preprocessing(Preparation(32, *given)).transforms[0]._loader
        assert loader.readers[-1].options == ReadOptions(given[0], orientation=given[1])


def test_a_damaged_cache_file_is_as_good_as_absent(rows, tmp_path):
    cache_dir = tmp_path / "cache"
    expected = arrays(CXRDataset(rows[:1], our_chain(32)))[0]
    CXRDataset(rows[:1], our_chain(32), cache_dir=str(cache_dir))
    files = [path for path in cache_dir.rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in files) == ["", ".packed"]
    for file in files:
        good = file.read_bytes()
        for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), b"", good[:100], good.replace(b"32", b"31", 1)):
            file.write_bytes(bad)
            assert np.array_equal(arrays(CXRDataset(rows[:1], our_chain(32), cache_dir=str(cache_dir)))[0], expected)
            assert file.read_bytes() == good


def test_a_file_that_is_changed_while_it_is_used_is_found(rows, tmp_path):
    dataset = CXRDataset(rows[:2], our_chain(32), cache_dir=str(tmp_path / "cache"))
    expected = [image.copy() for image in arrays(dataset)]
    # Another program's equal file in its place changes nothing, an image changed in place by its user no other read.
    assert dataset.packed is not None
    dataset.packed.path.unlink()
    other = CXRDataset(rows[:2], our_chain(32), cache_dir=str(tmp_path / "cache"))
    assert all(np.array_equal(a, b) for a, b in zip(arrays(dataset), expected, strict=True))
    other[0]["image"][:] = 7.0
    assert np.array_equal(np.asarray(CXRDataset(rows[:2], our_chain(32), cache_dir=str(tmp_path / "cache"))[0]["image"]), expected[0])
    with other.packed.path.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\x00\x00\x00\x00")
    with pytest.raises(InputError, match="the cache was changed during the run"):
        other[0]


@pytest.mark.parametrize("kind", ["", ".packed"])
def test_a_disk_that_takes_no_cache_is_a_disk_error_and_leaves_no_temporary_file(rows, tmp_path, monkeypatch, kind):
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.suffix == kind:
            raise OSError(errno.ENOSPC, "full")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiskError, match="cannot write the cache: no space is left"):
        CXRDataset(rows[:1], our_chain(32), cache_dir=str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob(".*"))


def test_a_cache_below_a_file_is_a_disk_error(rows, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="cannot write the cache: a part of the path is a file"):
        CXRDataset(rows[:1], our_chain(32), cache_dir=str(tmp_path / "file/cache"))


def test_an_image_whose_percentiles_are_equal_becomes_0():
    image = torch.full((1, 224, 224), 0.3)
    image[0, 0, :100] = 0.9
    assert not ScalePercentilesd("image")({"image": image})["image"].any()


def test_a_dataset_of_a_cache_is_read_by_other_processes(rows, tmp_path):
    dataset = CXRDataset(rows[:3], our_chain(32), cache_dir=str(tmp_path / "cache"))
    again = pickle.loads(pickle.dumps(dataset))
    assert all(np.array_equal(a, b) for a, b in zip(arrays(again), arrays(dataset), strict=True))


def test_a_name_that_may_be_burned_in_is_known_also_of_a_cached_image(rows, tmp_path, dicom_file):
    """Or a picture of it would be drawn."""
    path = dicom_file(np.arange(2000, dtype=np.uint16).reshape(40, 50), BitsStored=12, BurnedInAnnotation="YES")
    for cache_dir in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        dataset = CXRDataset([rows[0], rows[1] | {"image": str(path)}, rows[2]], our_chain(32), cache_dir=cache_dir)
        assert [item["burned_in"] for item in dataset.data] == [False, True, False]
        assert [dataset[i]["burned_in"] for i in range(3)] == [False, True, False]


def test_two_writers_of_one_cache(rows, tmp_path):
    """Both write every image at once, many times; each reader sees whole images only."""
    cache = ImageCache(tmp_path / "cache", None)
    image = np.arange(5000, dtype=np.float32).reshape(1, 50, 100)
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            for _ in range(200):
                cache.put("a" * 64, image, burned_in=False)
            os._exit(0)
        children.append(child)
    seen = 0
    while seen < 300:
        found = cache.get("a" * 64)
        if found is not None:
            assert np.array_equal(found[0], image)
            seen += 1
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert [path.name for path in cache.folder.iterdir()] == ["a" * 64]


def test_descriptions_tell_settings_apart_and_the_benchmark_times_the_bundles_chain():
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles/sga/train.json"))
    bundle = parser.get_parsed_content("train#preprocessing")
    described = [describe(chain) for chain in (our_chain(224), our_chain(128))]
    assert described[0] != described[1]

    def essence(description: dict) -> list:
        return [{key: value for key, value in step.items() if key != "_loader"} for step in description["transforms"]]

    assert essence(describe(bundle)) == essence(described[0])
    assert describe(bundle)["transforms"][0]["_loader"]["readers"][-1] == described[0]["transforms"][0]["_loader"]["readers"][-1]
    with pytest.raises(InputError, match="hides its settings"):
        describe(memoryview(b"x"))


def die(data: dict, chain) -> dict:
    if data["row"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return chain(data)


def hang(data: dict, chain) -> dict:
    if data["row"] == 4:
        time.sleep(600)
    return chain(data)


def test_a_dead_worker_is_an_error(rows):
    began = time.monotonic()
    with pytest.raises(WorkerError, match="died or took longer than 45 s near image"):
        CXRDataset(rows[:3], functools.partial(die, chain=our_chain(32)), num_workers=2)
    assert time.monotonic() - began < 60


def test_a_hanging_worker_is_an_error(rows, monkeypatch):
    assert reading.SECONDS_AN_IMAGE < 60
    monkeypatch.setattr(reading, "SECONDS_AN_IMAGE", 2.0)
    began = time.monotonic()
    with pytest.raises(WorkerError, match="near image"):
        CXRDataset(rows[:3], functools.partial(hang, chain=our_chain(32)), num_workers=2)
    assert time.monotonic() - began < 30


def fail(data: dict) -> dict:
    raise KeyError(data["image"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unexpected_error_tells_its_place_but_not_its_text(rows, num_workers):
    with pytest.raises(RuntimeError, match="row 2: KeyError") as caught:
        CXRDataset(rows, fail, num_workers=num_workers)
    assert "in fail" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def run_out(data: dict, kind: type[Exception]) -> dict:
    try:
        raise kind(data["image"]) if kind is not RuntimeError else RuntimeError("DefaultCPUAllocator: can't allocate memory")
    except Exception as error:
        # As MONAI wraps what a transform raises.
        raise RuntimeError(data["image"]) from error


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_shortage_of_memory_ends_the_run_and_is_no_fault_of_an_image(rows, num_workers, kind):
    with pytest.raises(WorkerError, match=r"^memory ran out; free some, or use fewer num_workers$"):
        CXRDataset(rows, functools.partial(run_out, kind=kind), skip_failed=True, num_workers=num_workers)


def test_the_same_file_twice_is_refused(rows):
    copy = rows[0] | {"row": 9, "set": "elsewhere"}
    first, second = CXRDataset(rows[:2], our_chain(32)), CXRDataset([copy], our_chain(32))
    refuse_same_bytes([first])
    with pytest.raises(InputError, match="site row 2 and elsewhere row 9 are the same file"):
        refuse_same_bytes([first, second])
    again = rows[0] | {"row": 9}
    with pytest.raises(InputError, match="site row 2 and site row 9"):
        refuse_same_bytes([CXRDataset([rows[0], again], our_chain(32))])


def test_two_external_sets_may_share_a_file_but_not_with_an_internal_one(rows):
    copy = rows[0] | {"row": 9, "set": "elsewhere"}
    refuse_same_bytes([CXRDataset([rows[0], copy], our_chain(32))])
    for name in ("internal", "internal (validation)"):
        inside = rows[0] | {"set": name}
        with pytest.raises(InputError, match="same file"):
            refuse_same_bytes([CXRDataset([inside, copy], our_chain(32))])


def test_reading_leaves_the_random_state_alone(rows):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    CXRDataset(rows, our_chain(32), skip_failed=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_shared_folder_keeps_its_mode(rows, tmp_path):
    shared = tmp_path / "everybodys"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    CXRDataset(rows[:1], our_chain(32), cache_dir=str(shared))
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert [stat.S_IMODE(path.stat().st_mode) for path in shared.iterdir()] == [0o700]
