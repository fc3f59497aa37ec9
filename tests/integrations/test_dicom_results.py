"""Results as DICOM objects: references, identifiers, the notice, and what programs and validators read in them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from fixtures.evaluations import write_evaluation
from fixtures.orthanc import radiograph
from pydicom import uid
from pydicom.dataset import Dataset
from scipy.special import expit

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.header import quiet
from sga_monai.integrations.dicom_results import case as case_module
from sga_monai.integrations.dicom_results import results
from sga_monai.integrations.dicom_results import structured_report as report_module
from sga_monai.integrations.dicom_results.case import NOTICE, Case, Model, as_source, statement
from sga_monai.integrations.dicom_results.picture import draw_result
from sga_monai.integrations.dicom_results.secondary_capture import secondary_capture
from sga_monai.integrations.dicom_results.sources import COPIES, read_cases
from sga_monai.integrations.dicom_results.structured_report import structured_report
from sga_monai.model.network import CXRResNet18
from sga_monai.model.scores import logit_difference

MODEL = Model("sga_cxr", "0.1.0", "a" * 64, 0.42, 1.3, "b" * 64, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
IMAGE = np.tile(np.linspace(0, 1, 90, dtype=np.float32), (120, 1))
HEAT = np.zeros((32, 32), np.float32)
HEAT[:16, :16] = 1
LOSSY = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "10", "LossyImageCompressionMethod": "ISO_10918_1"}


def header(number: int, **attributes: object) -> Dataset:
    return pydicom.dcmread(io.BytesIO(radiograph(number, **attributes)), stop_before_pixels=True)


def case(number: int = 1, positive: bool = True, **attributes: object) -> Case:
    source = as_source(header(number, **attributes))
    assert source is not None
    return Case(10 + number, source, 0.731234567 if positive else 0.2, positive, 1)


def objects(one: Case, model: Model = MODEL) -> tuple[Dataset, Dataset]:
    """Both objects of a case, as they are read from their files."""
    picture = draw_result(IMAGE, HEAT, statement(one, model))
    read = []
    for made in (secondary_capture(one, model, picture), structured_report(one, model)):
        buffer = io.BytesIO()
        made.save_as(buffer, enforce_file_format=True)
        read.append(pydicom.dcmread(io.BytesIO(buffer.getvalue())))
    return read[0], read[1]


def items(container: Dataset) -> dict[str, Dataset]:
    """All content items of a report by the meaning of their names."""
    found = {}
    for item in container.get("ContentSequence", []):
        found[item.ConceptNameCodeSequence[0].CodeMeaning] = item
        found |= items(item)
    return found


def test_both_belong_to_the_study_and_refer_to_the_image():
    one = case()
    capture, report = objects(one)
    assert capture.SOPClassUID == uid.SecondaryCaptureImageStorage
    assert report.SOPClassUID == uid.EnhancedSRStorage
    for made in (capture, report):
        for name in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyDate"):
            assert made[name].value == one.source[name].value
        assert NOTICE in made.SeriesDescription
    assert len({one.source.SeriesInstanceUID, capture.SeriesInstanceUID, report.SeriesInstanceUID}) == 3
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == one.source.SOPInstanceUID
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert (series.SeriesInstanceUID, series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) == (
        one.source.SeriesInstanceUID,
        one.source.SOPInstanceUID,
    )


@pytest.mark.parametrize("positive", [True, False])
def test_a_report_says_probability_threshold_and_algorithm(positive):
    found = items(objects(case(positive=positive))[1])

    def number(name: str) -> float:
        return float(found[name].MeasuredValueSequence[0].NumericValue)

    assert number("Probability of the positive class") == pytest.approx(0.731235 if positive else 0.2, abs=1e-9)
    assert number("Threshold of the probability") == 0.42
    assert found["Probability is at or above the threshold"].ConceptCodeSequence[0].CodeMeaning == ("Yes" if positive else "No")
    assert found["Intended use"].ConceptCodeSequence[0].CodeMeaning == NOTICE
    assert (found["Algorithm Name"].TextValue, found["Algorithm Version"].TextValue) == ("sga_cxr", "0.1.0")
    assert found["Source of Measurement"].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == case().source.SOPInstanceUID
    assert items(objects(case())[1]).keys() == found.keys()


def test_a_report_is_preliminary_and_not_verified():
    report = objects(case())[1]
    assert (report.PreliminaryFlag, report.VerificationFlag, report.Modality) == ("PRELIMINARY", "UNVERIFIED", "SR")
    assert "VerifyingObserverSequence" not in report


def test_the_same_result_is_the_same_object_and_no_other_is():
    first = objects(case())
    assert [made.SOPInstanceUID for made in objects(case())] == [made.SOPInstanceUID for made in first]
    assert objects(case()) == first
    other = Model(**{**MODEL.__dict__, "evaluation": "c" * 64})
    made = [*first, *objects(case(2)), *objects(case(), other)]
    assert len({one.SOPInstanceUID for one in made}) == 6
    assert len({one.SeriesInstanceUID for one in made}) == 6
    # Two images of one study share the two series.
    same = objects(case(3, StudyInstanceUID=case().source.StudyInstanceUID))
    assert [one.SeriesInstanceUID for one in same] == [one.SeriesInstanceUID for one in first]
    assert {one.SOPInstanceUID for one in same}.isdisjoint(one.SOPInstanceUID for one in first)


def test_what_another_version_makes_is_another_object(monkeypatch):
    first = objects(case())
    for module in (case_module, report_module):
        monkeypatch.setattr(module, "__version__", "9.9.9")
    for before, after in zip(first, objects(case()), strict=True):
        assert before.SoftwareVersions != after.SoftwareVersions
        assert before.SOPInstanceUID != after.SOPInstanceUID
        assert before.SeriesInstanceUID != after.SeriesInstanceUID


def test_the_picture_shows_the_image_the_heat_map_and_the_notice():
    picture = draw_result(IMAGE, HEAT, "sga_cxr 0.1.0: probability 0.731")
    width = picture.shape[1]
    assert width == 640
    body = picture[40 : 40 + 420]
    left, right = body[:, :320].astype(int), body[:, 320:].astype(int)
    assert np.ptp(left, axis=2).max() == 0
    # Brighter to the right, as the image.
    assert (np.diff(left[200, :, 0]) >= 0).all()
    changed = np.abs(left - right).sum(axis=2)
    assert changed[20:150, 20:120].mean() > 10 * changed[250:400, 200:300].mean() + 10
    # White letters on red, above and below.
    for band in (picture[:20], picture[-14:]):
        assert np.median(band, axis=(0, 1)).tolist() == [150, 0, 0]
        assert band.min(axis=2).max() > 200
    assert not np.array_equal(draw_result(IMAGE, HEAT, "x")[-60:], picture[-60:])
    assert draw_result(np.tile(IMAGE, (30, 30)), HEAT, "x").shape[1] <= 2048
    assert draw_result(IMAGE, np.zeros_like(HEAT), "x").shape == picture.shape


def test_a_capture_can_be_read_by_anybody():
    one = case()
    capture = objects(one)[0]
    assert np.array_equal(capture.pixel_array, draw_result(IMAGE, HEAT, statement(one, MODEL)))
    assert capture.PhotometricInterpretation == "RGB"


@pytest.mark.parametrize(
    ("picture", "syntax"),
    [
        (np.zeros((7, 301, 3), np.uint8), uid.RLELossless),
        (np.tile(np.arange(301, dtype=np.uint8)[:, None] // 9, (7, 1, 3)), uid.RLELossless),
        (np.random.default_rng(0).integers(0, 256, (7, 301, 3), dtype=np.uint8), uid.ExplicitVRLittleEndian),
    ],
    ids=["black", "steps", "noise"],
)
def test_a_capture_is_compressed_without_loss_where_that_makes_it_smaller(picture, syntax):
    buffer = io.BytesIO()
    secondary_capture(case(), MODEL, picture).save_as(buffer, enforce_file_format=True)
    capture = pydicom.dcmread(io.BytesIO(buffer.getvalue()))
    assert capture.file_meta.TransferSyntaxUID == syntax
    assert capture["PixelData"].is_undefined_length == (syntax == uid.RLELossless)
    assert np.array_equal(capture.pixel_array, picture)
    assert capture.PlanarConfiguration == 0


@pytest.mark.parametrize(("given", "expected"), [("YES", "YES"), ("NO", "NO"), (None, None), ("", None), ("UNKNOWN", None)])
def test_a_capture_says_no_more_of_burned_in_names_than_its_source(given, expected):
    """A NO of our own would carry a name in the pixels through a de-identification."""
    assert objects(case(**({} if given is None else {"BurnedInAnnotation": given})))[0].get("BurnedInAnnotation") == expected


def test_a_capture_of_a_lossy_image_says_so():
    capture = objects(case(**LOSSY))[0]
    assert {name: str(capture[name].value) for name in LOSSY} == LOSSY
    assert "LossyImageCompression" not in objects(case())[0]
    # Some devices compress and do not say so.
    silent = case()
    silent.source.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    assert objects(silent)[0].LossyImageCompression == "01"


def test_both_have_all_that_the_source_says_of_patient_and_study():
    """Without the issuer, an archive of several hospitals takes the picture for another patient's."""
    given = {"IssuerOfPatientID": "HOSPITAL_B", "StudyDescription": "Thorax pa", "PatientAge": "031Y"}
    for made in objects(case(**given)):
        assert {name: made[name].value for name in given} == given


@pytest.fixture
def berlin(monkeypatch) -> Iterator[None]:
    """A computer one hour east of UTC."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("offset", "expected", "stated"),
    [
        ("", ("20260102", "040405"), None),
        ("-0500", ("20260101", "220405"), "-0500"),
        ("+0530", ("20260102", "083405"), "+0530"),
        ("EST", ("20260102", "040405"), None),
        ("+9900", ("20260102", "040405"), None),
    ],
)
def test_times_are_those_of_the_clock_that_the_study_was_made_by(berlin, offset, expected, stated):
    """The offset is of all dates and times of an object, the copied ones of the study too (PS3.3 C.12.1)."""
    with quiet():
        one = case(TimezoneOffsetFromUTC=offset, AcquisitionDateTime="20210305120000")
    for made in objects(one):
        assert made.get("TimezoneOffsetFromUTC") == stated
        for name in ("Content", "InstanceCreation", "Series"):
            assert (made[f"{name}Date"].value, made[f"{name}Time"].value) == expected
        acquisition, highdicom = made.ContributingEquipmentSequence
        assert acquisition.ContributionDateTime == "20210305120000"
        assert highdicom.ContributionDateTime == "".join(expected)


def test_a_source_without_optional_elements_or_without_a_study():
    bare = header(1)
    for name in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        delattr(bare, name)
    bare.PatientSex = "unknown"
    source = as_source(bare)
    capture, report = objects(Case(2, source, 0.5, True, 1))
    assert capture.PatientSex in ("", None)
    assert report.StudyDate in ("", None)
    del bare.StudyInstanceUID
    assert as_source(bare) is None


@pytest.mark.parametrize(
    ("charset", "stored"),
    [
        ("ISO_IR 192", "Müller^Jürgen".encode()),
        ("ISO_IR 100", "Buc^Jérôme".encode("latin1")),
        ("ISO_IR 6", b"DOE^JANE"),
        ("ISO 2022 IR 100", "Buc^Jérôme".encode("latin1")),
        (None, "Buc^Jérôme".encode("latin1")),
        ("", b"DOE^JANE"),
        # As the examples of PS3.5 H, I and K.
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"),
        ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"),
        ("\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"),
    ],
)
def test_names_in_every_alphabet_are_stored_as_in_the_source(charset, stored):
    """In other bytes, or in a set that it does not know, an archive would show another name."""
    data = radiograph(1, PatientName="@" * len(stored), **({} if charset is None else {"SpecificCharacterSet": charset}))
    source = pydicom.dcmread(io.BytesIO(data.replace(b"@" * len(stored), stored)), stop_before_pixels=True)
    for made in objects(Case(2, as_source(source), 0.5, True, 1)):
        assert made.get_item("PatientName").value.rstrip() == stored
        # A set that is the only one has the name without code extensions (PS3.3 C.12.1.1.2).
        expected = "ISO_IR 100" if charset == "ISO 2022 IR 100" else charset or None
        said = made.get("SpecificCharacterSet")
        assert (said if said is None or isinstance(said, str) else "\\".join(said)) == expected


def test_an_image_without_a_study_is_left_out_with_its_reason(tmp_path: Path):
    paths = {row: tmp_path / f"{row}.dcm" for row in range(2, 8)}
    for row in (2, 3, 4):
        paths[row].write_bytes(radiograph(row, StudyInstanceUID="1.2.3" if row < 4 else "1.2.4"))
    paths[5].write_bytes(radiograph(5, StudyInstanceUID=""))
    paths[6].write_bytes(b"\x89PNG\r\n\x1a\n")
    scored = pd.DataFrame({"row": list(paths), "score": [-1.0, 0.5, 2.0, 1, 1, 1], "probability": [0.2, 0.6, 0.9, 0.7, 0.7, 0.7]})
    cases, reasons = read_cases(scored, paths, 0.5)
    assert [(case.row, case.positive, case.number) for case in cases] == [(2, False, 1), (3, True, 2), (4, True, 1)]
    assert reasons == {"no study": 1, "not a DICOM file": 1, "missing": 1}
    assert all(results.Written.remedy(reason) for reason in reasons)


def test_rows_of_one_identifier_get_no_result(tmp_path: Path):
    """Which of the files the archive has, nobody knows, and their results would be of one identifier, too."""
    paths = {row: tmp_path / f"{row}.dcm" for row in (2, 3, 4)}
    for row, path in paths.items():
        path.write_bytes(radiograph(row, SOPInstanceUID=f"1.2.3.{min(row, 3)}"))
    scored = pd.DataFrame({"row": [2, 3, 4], "score": [-1.0, 2.0, 1.0], "probability": [0.1, 0.9, 0.8]})
    cases, reasons = read_cases(scored, paths, 0.5)
    assert [case.row for case in cases] == [2]
    assert reasons == {COPIES: 2}
    assert "SOPInstanceUID" in results.Written.remedy(COPIES)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [({"PatientBirthDate": "SECRET"}, "header"), ({"PatientName": "SECRET NAME WITHOUT PARTS"}, ""), ({"Rows": 128}, "truncated")],
)
def test_what_libraries_say_of_a_header_goes_nowhere(tmp_path: Path, capfd, caplog, attributes, reason):
    with quiet():
        path = tmp_path / "a.dcm"
        path.write_bytes(radiograph(1, **attributes))
        source = as_source(pydicom.dcmread(path, stop_before_pixels=True))
    out = tmp_path / "out"
    assert results.write_case(out, Case(2, source, 0.5, True, 1), MODEL, path, ReadOptions(), HEAT) == reason
    assert len(list(out.glob("*.dcm"))) == (0 if reason else 2)
    assert "SECRET" not in "".join(capfd.readouterr()) + caplog.text


def test_a_folder_of_other_things_is_not_written_to(tmp_path: Path):
    results._check_folder(tmp_path / "absent", MODEL)
    results._check_folder(tmp_path, MODEL)
    (tmp_path / "results.json").write_text(json.dumps({"evaluation": MODEL.evaluation, "finished": False}))
    results._check_folder(tmp_path, MODEL)
    with pytest.raises(InputError, match="no finished results"):
        results.result_files(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"evaluation": "other"}))
    with pytest.raises(InputError, match="give a new folder"):
        results._check_folder(tmp_path, MODEL)


@pytest.mark.parametrize("change", ["finished", "sha256sums", "manifest_sha256"])
def test_only_the_bundle_and_the_manifest_of_the_evaluation_are_taken(tmp_path: Path, monkeypatch, change):
    monkeypatch.setattr(results, "verify_bundle", lambda _: 1)
    folder = write_evaluation(tmp_path / "evaluation", baseline=False)
    (tmp_path / "bundle").mkdir()
    for name in ("SHA256SUMS", "reference.json"):
        (tmp_path / "bundle" / name).write_text((folder / "reference.json").read_text())
    (tmp_path / "site.csv").write_text("image\n")
    run = json.loads((folder / "run.json").read_text()) | {"finished": "2026-01-02T03:04:05+00:00"}
    run["bundle"]["sha256sums"] = file_sha256(tmp_path / "bundle/SHA256SUMS")
    run["manifest_sha256"] = file_sha256(tmp_path / "site.csv")
    (folder / "run.json").write_text(json.dumps(run))
    given = (folder, tmp_path / "bundle", tmp_path / "site.csv")
    model, reference, _ = results._model(*given)
    figures = reference["models"]["model"]
    # The same threshold on the scale of probabilities, temperature included.
    assert model.threshold == pytest.approx(expit(figures["threshold"] / figures["temperature"]))
    assert (model.name, model.version, model.when.year) == ("cxr", "1.0", 2026)
    run |= {"finished": None} if change == "finished" else {"manifest_sha256": "0"} if change == "manifest_sha256" else {}
    run["bundle"]["sha256sums"] = "0" if change == "sha256sums" else run["bundle"]["sha256sums"]
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(InputError, match="not finished" if change == "finished" else "another"):
        results._model(*given)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"SpecificCharacterSet": "ISO 2022 IR 100", "PatientName": "Buc^Jérôme"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 149"], "PatientName": "Hong^Gildong=洪^吉洞=홍^길동", "TimezoneOffsetFromUTC": "+0530"},
        {"BurnedInAnnotation": "NO", "IssuerOfPatientID": "HOSPITAL_B"} | LOSSY,
    ],
)
@pytest.mark.parametrize("program", ["dciodvfy", "dsrdump"])
def test_validators_find_no_error(program, attributes, tmp_path: Path):
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    for kind, made in zip(("capture", "report"), objects(case(**attributes)), strict=True):
        made.save_as(tmp_path / f"{kind}.dcm")
    if program == "dsrdump":
        shown = subprocess.run([program, str(tmp_path / "report.dcm")], capture_output=True, text=True, errors="replace", check=True)
        assert NOTICE in shown.stdout
        assert "Imaging Measurement Report" in shown.stdout
        return
    for kind in ("capture", "report"):
        shown = subprocess.run(
            [program, "-new", str(tmp_path / f"{kind}.dcm")], capture_output=True, text=True, errors="replace", check=False
        )
        assert "Error" not in shown.stderr, shown.stderr
        assert ("SCImage" if kind == "capture" else "EnhancedSR") in shown.stderr


def test_a_file_that_is_another_image_now_gets_no_result(drawn):
    """The score of one patient must not be written into the study of another."""
    torch.manual_seed(0)
    network = CXRResNet18().eval()
    image = torch.as_tensor(drawn[:64, :64].astype(np.float32) / 4095)[None]
    shown = [image]

    class Read:
        data = ({"row": 2},)

        def __getitem__(self, _index: int) -> dict[str, torch.Tensor]:
            return {"image": shown[0]}

    with torch.no_grad():
        probability = float(torch.sigmoid(logit_difference(network(image[None])) / 2.0))
    one = Case(2, as_source(header(1)), probability, True, 1)
    ((same, heat),) = results._heat_maps(network, Read(), [one], 2.0)
    assert same is one
    assert heat.shape == (64, 64)
    shown[0] = image.flip(-1) * 0.5
    with pytest.raises(InputError, match="row 2: its image is not the one that was scored"):
        list(results._heat_maps(network, Read(), [one], 2.0))
