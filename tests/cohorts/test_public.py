from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from sga_monai.cli.manifest import NAMES, app
from sga_monai.cohorts.public import BUILDERS, default_name
from sga_monai.cohorts.tables import all_test
from sga_monai.core.errors import InputError
from sga_monai.data.manifest import check_external, read_manifest
from sga_monai.data.manifest_writer import write_manifest

# The builder of each committed manifest; those of mixtures are in test_mixture.py.
COMMITTED = {default_name(name): name for name in BUILDERS if name != "mixture"} | {"shenzhen_external": "shenzhen-tb"}
TRAINING = ("siim", "shenzhen", "hannover_nih")


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_manifests_are_valid(name):
    rows = read_manifest(ROOT / "data_manifests" / f"{name}.csv")
    assert {row["label"] for row in rows} == {"0", "1"}
    splits = [row["split"] for row in rows]
    if name in TRAINING:
        assert [splits.count(split) / len(rows) for split in ("train", "val", "test")] == pytest.approx([0.6, 0.2, 0.2], abs=0.01)
    else:
        assert set(splits) == {"test"}


@pytest.mark.parametrize("name", COMMITTED)
def test_the_record_beside_a_manifest_fits_it(name):
    path = ROOT / f"data_manifests/{name}.csv"
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    labels = [row["label"] for row in read_manifest(path)]
    assert ["images", "all", labels.count("0"), labels.count("1")] in record["audit"]
    numbers = f"{labels.count('0'):,} / {labels.count('1'):,}"
    readme = (ROOT / "data_manifests/README.md").read_text()
    assert numbers in next(line for line in readme.splitlines() if line.startswith("|") and f"`{name}.csv`" in line)


def test_the_command_names_every_builder():
    assert set(NAMES) == set(BUILDERS)


@pytest.mark.parametrize("strength", ["0.004", "0.125", "nan", "1.5"])
def test_a_mixture_does_not_take_the_name_of_another_strength(tmp_path, monkeypatch, strength):
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, ["build", "mixture", str(tmp_path), "--strength", strength])
    assert isinstance(refused.exception, InputError)
    assert re.match("the default name holds strength in whole percent; give --out|strength must be in", str(refused.exception))
    assert [default_name("mixture", strength=i / 100) for i in range(101)] == [f"mixture_r{i:03d}" for i in range(101)]


@pytest.mark.parametrize(
    ("name", "option"),
    [("montgomery-tb", "--rule=any_appearance"), ("mixture", "--drop-unboxed-duplicates"), ("siim", "--strength=0.5")],
)
def test_an_option_of_another_builder_is_refused(tmp_path, name, option):
    refused = CliRunner().invoke(app, ["build", name, str(tmp_path), option, "--out", str(tmp_path / "m.csv")])
    assert isinstance(refused.exception, InputError)
    assert str(refused.exception) == f"{option.partition('=')[0]} is no option of {name}; leave it out"


def test_no_external_site_of_siim_or_shenzhen_shares_patients_with_it():
    external = {
        name: read_manifest(ROOT / f"data_manifests/{name}.csv")
        for name in ("cohen_nih", "cohen", "montgomery", "kermany", "nih_pa", "nih_ap")
    }
    for name in ("siim", "shenzhen"):
        training = read_manifest(ROOT / f"data_manifests/{name}.csv")
        for other, rows in external.items():
            check_external(training, rows, other)
    with pytest.raises(InputError, match="662 rows have a patient of the training manifest"):
        check_external(training, read_manifest(ROOT / "data_manifests/shenzhen_external.csv"), "shenzhen_external")


def test_external_manifests_share_no_patient_with_training():
    training = read_manifest(ROOT / "data_manifests/hannover_nih.csv")
    for name in ("cohen_nih", "cohen"):
        check_external(training, read_manifest(ROOT / f"data_manifests/{name}.csv"), name)


@pytest.mark.real
@pytest.mark.parametrize("name", COMMITTED)
def test_builders_reproduce_the_committed_manifests(real_data, tmp_path, name):
    rows = BUILDERS[COMMITTED[name]](real_data, seed=0)
    if name == "shenzhen_external":
        rows = all_test(rows)
    write_manifest(tmp_path / "m.csv", [row for row in rows if not row["dropped"]])
    assert (tmp_path / "m.csv").read_bytes() == (ROOT / f"data_manifests/{name}.csv").read_bytes()


def test_no_image_of_hannover_is_in_an_external_manifest():
    stems = {name: {Path(row["image"]).stem for row in read_manifest(ROOT / f"data_manifests/{name}.csv")} for name in COMMITTED}
    assert not stems["hannover_nih"] & stems["cohen"]
    assert not stems["hannover_nih"] & stems["cohen_nih"]
