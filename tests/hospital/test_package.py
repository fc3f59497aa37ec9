"""What a bundle and the manifests in it may be called."""

from __future__ import annotations

import json

import pytest
from fixtures.evaluations import FACTS, predictions

from sga_monai.core.errors import InputError
from sga_monai.evaluation.predictions import INTERNAL, VALIDATION
from sga_monai.hospital.package import package_bundle
from sga_monai.hospital.reference import make_reference, read_reference


@pytest.mark.parametrize("name", ["chest model", "röntgen", "a/b", "..", ".hidden", "-x", "x" * 65, ""])
def test_a_name_that_no_hospital_could_read_is_refused_before_packaging(tmp_path, name):
    with pytest.raises(InputError, match="name must be of letters A to Z, digits"):
        package_bundle(tmp_path / "model.pt", tmp_path / "dist", name=name)
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("manifests", "message"),
    [
        (["a/site.csv", "b/Site.csv"], "two site manifests have the same name"),
        (["a/template.csv"], r"or one is called template\.csv"),
        (["a/our site.csv"], "the name of a site manifest must be of letters"),
    ],
)
def test_site_manifests_that_cannot_go_along_are_refused(tmp_path, manifests, message):
    with pytest.raises(InputError, match=message):
        package_bundle(tmp_path / "model.pt", tmp_path / "dist", site_manifests=manifests)


def test_a_name_that_is_taken_can_be_read(tmp_path):
    name = "CXR_2.1-beta"
    weights = {"model": {"network": "resnet18", "sha256": "0" * 64}}
    reference = make_reference({"model": predictions({VALIDATION: 60, INTERNAL: 60}, 2.0, 1.0)}, weights, **FACTS | {"name": name})
    (tmp_path / "reference.json").write_text(json.dumps(reference))
    assert read_reference(tmp_path / "reference.json")["name"] == name
    # The run is what is missing.
    with pytest.raises(InputError, match=r"no run\.json"):
        package_bundle(tmp_path / "model.pt", tmp_path / "dist", name=name)
