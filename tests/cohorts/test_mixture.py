from __future__ import annotations

import itertools
from collections import Counter

import pytest
from conftest import ROOT

from sga_monai.cohorts.mixture import BUILDERS, mixture
from sga_monai.core.errors import InputError
from sga_monai.data.manifest import check_external, read_manifest
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.imaging.read import sha256_of

STRENGTHS = {"mixture_r000": 0, "mixture_r050": 0.5, "mixture_r075": 0.75, "mixture_r090": 0.9, "mixture_r100": 1}
TESTS = ("nih_pneumonia", "cohen_pneumonia")


def committed(name: str) -> list[dict[str, str]]:
    return read_manifest(ROOT / f"data_manifests/{name}.csv")


def test_strength_is_the_share_of_positives_from_the_other_source():
    for name, strength in STRENGTHS.items():
        for split, count in (("train", 145), ("val", 49), ("test", 49)):
            rows = [row for row in committed(name) if row["split"] == split]
            assert Counter(row["label"] for row in rows) == {"0": count, "1": count}
            assert {row["site"] for row in rows if row["label"] == "0"} == {"nih"}
            assert sum(row["site"] == "hannover" for row in rows) == round(strength * count)


def test_a_smaller_strength_keeps_images_of_a_larger_one():
    images = [{row["image"] for row in committed(name) if row["site"] == "hannover"} for name in STRENGTHS]
    assert all(small < large for small, large in itertools.pairwise(images))
    negatives = [{row["image"] for row in committed(name) if row["label"] == "0"} for name in STRENGTHS]
    assert all(found == negatives[0] for found in negatives)


def test_tests_have_other_patients_than_every_mixture():
    for name in STRENGTHS:
        for test in TESTS:
            check_external(committed(name), committed(test), test)
    assert {row["site"] for row in committed("nih_pneumonia")} == {"nih"}


@pytest.mark.real
def test_builders_reproduce_the_committed_manifests(real_data, tmp_path):
    for name in ("mixture_r075", *TESTS):
        options = {"strength": STRENGTHS[name]} if name in STRENGTHS else {}
        rows = BUILDERS["mixture" if options else name.replace("_", "-")](real_data, seed=0, **options)
        write_manifest(tmp_path / "built.csv", [row for row in rows if not row["dropped"]])
        assert (tmp_path / "built.csv").read_bytes() == (ROOT / f"data_manifests/{name}.csv").read_bytes()
    # NIH holds one radiograph under two names.
    hashes = [sha256_of((real_data / row["image"]).read_bytes()) for row in committed("nih_pneumonia")]
    assert len(set(hashes)) == len(hashes)
    with pytest.raises(InputError, match="strength must be in"):
        mixture(real_data, strength=1.5)
