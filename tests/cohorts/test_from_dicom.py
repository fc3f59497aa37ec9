"""A hospital's export as it comes: views, joins, ids, dates, names and links of ordinary data (one test for each kind)."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid

from sga_monai.cohorts import from_dicom
from sga_monai.cohorts.from_dicom import manifest_from_dicom
from sga_monai.cohorts.header_values import age_from_dates, parse_age, parse_date, parse_sex
from sga_monai.cohorts.listing import Listing
from sga_monai.core.errors import InputError
from sga_monai.data.datalist import load_manifest
from sga_monai.data.manifest import read_manifest
from sga_monai.data.pseudonyms import new_site_key


def write_image(path: Path | str, size: int = 16, syntax: str = uid.ExplicitVRLittleEndian, **elements: object) -> None:
    """A CR of noise with the given elements."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid.generate_uid()
    dataset.Modality, dataset.ViewPosition, dataset.PatientName = "CR", "PA", "DOE^SECRET"
    dataset.Rows = dataset.Columns = size
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = np.random.default_rng(len(str(path))).integers(0, 4096, (size, size), dtype=np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    with Path(path).open("wb") as stream:
        dataset.save_as(stream, enforce_file_format=True)


class Site:
    """A hospital's folder of images and its table of labels."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, folder / "images"
        self.images.mkdir()
        new_site_key(folder / "site.key")
        self.lines = ["accession,label"]

    def add(self, number: int, label: int | None = None, name: str | None = None, **elements: object) -> None:
        given = {"AccessionNumber": f"A{number:04d}", "PatientID": f"MRN-{number:04d}", "StudyDate": "20210305"} | elements
        write_image(self.images / (name or f"{number}.dcm"), **given)
        if label is not None:
            self.lines.append(f"A{number:04d},{label}")

    def list(self, labels: str | None = None, site: str = "our_hospital") -> tuple[Listing, list[dict[str, str]]]:
        text = labels if labels is not None else "\n".join(self.lines) + "\n"
        (self.folder / "labels.csv").write_text(text, encoding="utf-8")
        out = self.folder / "site.csv"
        listing = manifest_from_dicom(self.images, self.folder / "labels.csv", site, self.folder / "site.key", out)
        return listing, read_manifest(out)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_two_views_a_study_lists_the_frontal_one(site):
    for i in range(24):
        site.add(i, i % 2)
        site.add(i, name=f"{i}_lat.dcm", ViewPosition="LATERAL" if i % 3 else "LL")
    listing, rows = site.list()
    assert listing.files == {"listed": [24, 12, 12], "left out: lateral": [24, 12, 12]}
    assert not listing.labels
    assert not listing.one_sided
    assert {row["view"] for row in rows} == {"PA"}


def test_what_is_no_frontal_radiograph_for_presentation_is_left_out_by_its_header(site):
    site.add(0, 1)
    site.add(1, 1, PresentationIntentType="FOR PROCESSING")
    site.add(2, 0, SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1")
    site.add(3, 0, Modality="CT")
    site.add(4, 0, NumberOfFrames=3)
    site.add(5, 1, NumberOfFrames=1)
    hand = pydicom.Dataset()
    hand.CodeValue, hand.CodingSchemeDesignator, hand.CodeMeaning = "T-D8700", "SRT", "Hand"
    site.add(6, 0, SharedFunctionalGroupsSequence=[groups(FrameAnatomySequence=[groups(AnatomicRegionSequence=[hand])])])
    turned = groups(PatientOrientationInFrameSequence=[groups(PatientOrientation=["P", "F"])])
    site.add(7, 0, PerFrameFunctionalGroupsSequence=[turned])
    listing, _ = site.list()
    assert listing.files["left out: for_processing"] == [2, 1, 1]
    assert listing.files["left out: examination"] == [2, 0, 2]
    assert listing.files["left out: lateral"] == [1, 0, 1]
    assert listing.files["left out: multi_frame"] == [1, 0, 1]
    assert listing.files["listed"] == [2, 2, 0]
    # Six labels have lost their only image, which no line of files may hide.
    assert listing.labels == {"labels whose images are all left out": [6, 1, 5]}
    assert listing.one_sided


def test_a_file_exported_twice_is_listed_once(site):
    for i in range(4):
        site.add(i, i % 2)
    (site.images / "again").mkdir()
    for name in ("0.dcm", "1.dcm", "2.dcm"):
        shutil.copy(site.images / name, site.images / "again" / name)
    # The same object under another header is another file, and left to the leak check.
    changed = pydicom.dcmread(site.images / "again/2.dcm")
    changed.Manufacturer = "X"
    changed.save_as(site.images / "again/2.dcm")
    listing, rows = site.list()
    assert listing.files == {"listed": [5, 2, 3], "left out: copy": [2, 1, 1]}
    assert not listing.one_sided
    assert [row["image"] for row in rows] == ["0.dcm", "1.dcm", "2.dcm", "3.dcm", "again/2.dcm"]


def test_copies_with_different_labels_are_both_left_out(site):
    site.add(0)
    site.add(1)
    shutil.copy(site.images / "0.dcm", site.images / "2.dcm")
    shutil.copy(site.images / "1.dcm", site.images / "3.dcm")
    listing, rows = site.list("image,label\n0.dcm,0\n1.dcm,1\n2.dcm,1\n3.dcm,1\n")
    assert listing.files == {"left out: copy of the other label": [2, 1, 1], "listed": [1, 1, 0], "left out: copy": [1, 1, 0]}
    assert [row["image"] for row in rows] == ["1.dcm"]
    assert listing.one_sided
    assert "labels that no listed image has are in row 2, 4" in listing.warnings


def test_one_picture_of_two_patients_is_left_out(site):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(site.images / name)
    site.add(0)
    listing, rows = site.list("image,patient_id,label\na.png,PX,1\nb.png,PY,1\n0.dcm,PZ,0\n")
    assert [row["image"] for row in rows] == ["0.dcm"]
    assert listing.files["left out: copy of another patient"] == [2, 2, 0]
    assert listing.labels == {"labels whose images are all left out": [2, 2, 0]}


def test_files_of_one_size_are_not_read_as_a_whole_for_that(site):
    for i in range(10):
        site.add(i, i % 2, Rows=1000, Columns=1000, PixelData=bytes(2_000_000))
        dataset = pydicom.dcmread(site.images / f"{i}.dcm")
        del dataset.SOPInstanceUID
        dataset.save_as(site.images / f"{i}.dcm")
    before = bytes_read()
    site.list()
    assert bytes_read() - before < 3_000_000


def test_labels_of_one_image_that_differ_are_said(site):
    site.add(0)
    site.add(1)
    listing, rows = site.list("accession,patient_id,label\nA0000,,1\n,MRN-0000,0\nA0001,,0\n")
    assert [row["label"] for row in rows] == ["1", "0"]
    assert any("1 pairs of rows label the same image differently, such as rows 2 and 3" in sentence for sentence in listing.warnings)


def test_an_image_without_permission_is_not_called_damaged(site, monkeypatch):
    site.add(0, 1)
    site.add(1, 0)
    real = os.open

    def closed(path: str, *arguments: int, **options: int) -> int:
        if str(path).endswith("/0.dcm"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", closed)
    listing, _ = site.list()
    assert listing.files == {"left out: no_access": [1, 0, 0], "listed": [1, 0, 1]}


def test_files_that_vanish_while_headers_are_read(site, monkeypatch):
    for i in range(3):
        site.add(i, i % 2)
    shutil.copy(site.images / "0.dcm", site.images / "3.dcm")
    copies, read = from_dicom._copies, from_dicom.read_head

    def lose_copy(root: Path, found: Sequence[object]) -> list[str]:
        (root / "3.dcm").unlink()
        return copies(root, found)

    def lose_file(path: str) -> bytes:
        if path.endswith("/1.dcm"):
            Path(path).unlink()
        return read(path)

    monkeypatch.setattr(from_dicom, "_copies", lose_copy)
    monkeypatch.setattr(from_dicom, "read_head", lose_file)
    listing, rows = site.list()
    assert [row["image"] for row in rows] == ["0.dcm", "2.dcm"]
    assert listing.files["left out: missing"][0] == 2


def test_the_label_of_an_empty_file_is_that_of_a_file_left_out(site):
    site.add(0)
    site.add(1)
    (site.images / "2.dcm").write_bytes(b"")
    listing, _ = site.list("image,label\n0.dcm,1\n1.dcm,0\n2.dcm,1\n")
    assert listing.files["left out: not an image"] == [1, 1, 0]
    assert listing.labels == {"labels whose images are all left out": [1, 1, 0]}


def without_pixels(path: Path, **elements: object) -> None:
    """Take the image out of a file, as a report or a raw object of a vendor has none."""
    dataset = pydicom.dcmread(path)
    del dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation
    del dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelData
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_objects_without_an_image_are_left_out(site):
    site.add(0, 1)
    vendors = "1.3.46.670589.2.4.1.1"
    kinds = {"report": (uid.EncapsulatedPDFStorage, "OT"), "raw": (vendors, "DX"), "summary": (uid.BasicTextSRStorage, "SR")}
    for name, (storage, modality) in kinds.items():
        site.add(0, name=f"{name}.dcm", SOPClassUID=storage, Modality=modality)
        without_pixels(site.images / f"{name}.dcm", **{"EncapsulatedDocument": b"%PDF-1.4"} if name == "report" else {})
    listing, rows = site.list()
    # A report of another modality has the more particular reason.
    assert listing.files == {"listed": [1, 1, 0], "left out: no_pixels": [2, 2, 0], "left out: examination": [1, 1, 0]}
    assert [row["image"] for row in rows] == ["0.dcm"]
    assert not listing.one_sided


def groups(**elements: object) -> pydicom.Dataset:
    """An item of a sequence."""
    dataset = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def test_both_sides_of_the_join_are_counted_by_class(site):
    site.add(0, 1)
    site.add(1, 0)
    site.add(2)
    lost = "".join(f"B{i:04d},1\n" for i in range(40))
    listing, rows = site.list("accession,label\nA0000,1\n,\nA0001,0\n" + lost)
    assert len(rows) == 2
    assert listing.labels == {"labels without an image": [40, 40, 0]}
    assert listing.files["left out: no label"] == [1, 0, 0]
    assert listing.one_sided
    assert any("tried by accession: 2 of 42 labels fit (3 different AccessionNumber in the files)" in line for line in listing.warnings)


@pytest.mark.parametrize(
    ("labels", "elements", "hint"),
    [
        ("accession,label\n17,1\n18,0\n", {"AccessionNumber": "00000018"}, "1 would fit with their leading zeros"),
        ("accession,label\n18.0,1\n", {"AccessionNumber": "18"}, "1 would fit without .0, which pandas and spreadsheets put behind"),
        ("accession,label\nA-0017,1\n18,0\n", {"AccessionNumber": "A0017"}, "1 would fit but for punctuation"),
        ("accession,label\nMRN-0001,1\n", {}, "1 would fit in a column patient_id: they are the files' PatientID"),
        ("image,label\nelsewhere/1.dcm,1\n", {}, "1 would fit by the name of the file alone"),
        ("image,label\n1.DCM,1\n", {}, "1 would fit in other capitals"),
    ],
)
def test_a_join_that_fails_says_how_it_was_tried_and_what_would_help(site, labels, elements, hint):
    site.add(1, **elements)
    with pytest.raises(InputError, match="no image has a label: 1 left out: no label") as caught:
        site.list(labels)
    assert hint in str(caught.value)
    assert "tried by" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("MRN", "elsewhere", "0017"))


def test_paths_of_windows_and_empty_rows_join(site):
    (site.images / "sub").mkdir()
    site.add(1, name="sub/1.dcm")
    site.add(2, name="sub/2.dcm")
    listing, rows = site.list("image,label,negative_type\nsub\\1.dcm,1,\n,,\n ,,\n.\\sub\\2.dcm,0,\n,,\n")
    assert listing.files == {"listed": [2, 1, 1]}
    assert not listing.one_sided
    assert [row["label"] for row in rows] == ["1", "0"]


def test_one_alphabet_from_the_first_step_and_what_is_changed_is_said(site):
    for i, maker in enumerate(("Example, Inc.", "Siemens Healthineers®", "Société Générale", "日本", "=cmd()", "A" * 80)):
        site.add(i, i % 2, Manufacturer=maker, SpecificCharacterSet="ISO_IR 192")
    kinds = ('"Lungenödem, beidseitig"', "")
    lines = "".join(f"A{i:04d},{i % 2},{kinds[i % 2]}\n" for i in range(6))
    listing, rows = site.list("accession,label,negative_type\n" + lines, site="Klinikum München")
    makers = [row["manufacturer"] for row in rows]
    assert makers == ["Example Inc.", "Siemens Healthineers", "Societe Generale", "", "cmd()", "A" * 64]
    assert {row["negative_type"] for row in rows} == {"Lungenoedem beidseitig", ""}
    assert {row["site"] for row in rows} == {"Klinikum Muenchen"}
    assert any("site is written as Klinikum Muenchen" in line for line in listing.warnings)
    assert any(line.startswith("negative_type is written in") for line in listing.warnings)
    assert [count for what, count in listing.cells.items() if what.startswith("Manufacturer")] == [6]
    for labels, name, message in (("accession,label\nA0000,1\n", "医院", "site must be written in"),):
        with pytest.raises(InputError, match=message):
            site.list(labels, site=name)
    with pytest.raises(InputError, match="row 2: negative_type must be written in"):
        site.list("accession,label,negative_type\nA0000,0,肺炎\n")


def test_dummy_dates_leave_cells_empty_and_are_counted(site):
    tomorrow = (date.today() + timedelta(days=400)).strftime("%Y%m%d")
    days = ("19000101", "00010101", "21870304", "19700101", "19800101", "99991231", "20210230", tomorrow, "20210305")
    for i, day in enumerate(days):
        site.add(i, i % 2, StudyDate=day, PatientBirthDate="19600101")
    lines = "".join(f"A{i:04d},{i % 2},{'1900-01-01' if i == 0 else '2021-03-07'}\n" for i in range(len(days)))
    listing, rows = site.list("accession,label,label_date\n" + lines)
    assert [row["period"] for row in rows] == [""] * 8 + ["2021H1"]
    assert [row["label_delta_days"] for row in rows] == [""] * 8 + ["2"]
    assert [row["age"] for row in rows] == [""] * 8 + ["40-64"]
    assert [count for what, count in listing.cells.items() if what.startswith("StudyDate")] == [8]
    assert any("label_date is no possible day" in line for line in listing.warnings)


def test_a_label_from_another_age_has_no_delta(site):
    site.add(0, 1, StudyDate="19850101")
    listing, rows = site.list("accession,label,label_date\nA0000,1,2024-05-01\n")
    assert "label_delta_days" not in rows[0]
    assert [count for what, count in listing.cells.items() if what.startswith("more than 9999 days")] == [1]


def test_empty_patient_ids_are_said_with_the_remedy(site):
    for i in range(24):
        site.add(i, i % 2, PatientID=" " if i % 2 else "")
    with pytest.raises(
        InputError, match=r"no image can be listed: 24 left out: no patient \(PatientID is empty; give patient_id in the labels"
    ):
        site.list()
    listing, rows = site.list("accession,patient_id,label\n" + "".join(f"A{i:04d},P{i},{i % 2}\n" for i in range(24)))
    assert listing.files == {"listed": [24, 12, 12]}
    assert len({row["patient_id"] for row in rows}) == 24


def test_one_patient_for_all_is_a_warning_which_the_labels_can_mend(site):
    for i in range(12):
        site.add(i, i % 2, PatientID="ANONYMOUS")
    listing, rows = site.list()
    assert len({row["patient_id"] for row in rows}) == 1
    assert any("all 12 images have one PatientID" in line for line in listing.warnings)
    assert any("a placeholder, as anonymous" in line for line in listing.warnings)
    assert any("all 12 images have one StudyDate" in line for line in listing.warnings)
    listing, rows = site.list("accession,patient_id,label\n" + "".join(f"A{i:04d},P{i},{i % 2}\n" for i in range(12)))
    assert len({row["patient_id"] for row in rows}) == 12
    assert not any("PatientID" in line for line in listing.warnings)


def test_labels_of_other_patients_than_the_files_are_said(site):
    """As after one column of the table was sorted on its own; with names made for an export it is right."""
    for i in range(6):
        site.add(i, i % 2)
    text = "accession,patient_id,label\n"
    listing, _ = site.list(text + "".join(f"A{i:04d},MRN-{5 - i:04d},{i % 2}\n" for i in range(6)))
    assert any("6 of 6 images have another PatientID than the patient_id of their label" in line for line in listing.warnings)
    listing, _ = site.list(text + "".join(f"A{i:04d},mrn-{i:04d} ,{i % 2}\n" for i in range(6)))
    assert not any("another PatientID" in line for line in listing.warnings)


def test_names_of_files_that_a_manifest_cannot_hold_are_counted(site):
    odd = ["-1.dcm", "=2.dcm", "~3.dcm", "@4.dcm", " 5.dcm", "+6.dcm"]
    bad = ["a:7.dcm", "b\\8.dcm", "c\u00a09.dcm", "d\u202e10.dcm", "11.dcm ", os.fsdecode(b"M\xfcller12.dcm")]
    for i, name in enumerate(odd + bad):
        site.add(i, 1 if name in bad else 0, name=name)
    listing, rows = site.list()
    assert listing.files == {"listed": [6, 0, 6], "left out: file name": [6, 6, 0]}
    assert listing.labels == {"labels whose images are all left out": [6, 6, 0]}
    assert {row["image"] for row in rows} == {f"./{name}" for name in odd}
    assert len(load_manifest(site.folder / "site.csv", site.images)) == 6


def test_names_are_compared_in_composed_form(site):
    decomposed, composed = (unicodedata.normalize(form, "Müller.dcm") for form in ("NFD", "NFC"))
    site.add(0, name=decomposed)
    site.add(1, name=os.fsdecode("Jürgen.dcm".encode("latin-1")))
    listing, rows = site.list(f"image,label\n{composed},1\nJürgen.dcm,1\n")
    assert listing.files == {"listed": [1, 1, 0], "left out: file name": [1, 1, 0]}
    assert [row["image"] for row in rows] == [decomposed]
    # A manifest that a spreadsheet has composed still finds the file.
    text = (site.folder / "site.csv").read_text(encoding="utf-8")
    (site.folder / "site.csv").write_text(unicodedata.normalize("NFC", text), encoding="utf-8")
    assert Path(load_manifest(site.folder / "site.csv", site.images)[0]["image"]).is_file()


def test_links_are_counted_and_not_followed(site):
    site.add(0, 1)
    elsewhere = site.folder / "elsewhere"
    shutil.move(site.images, elsewhere)
    site.images.mkdir()
    for i in range(3):
        (site.images / f"{i}.dcm").symlink_to(elsewhere / "0.dcm")
    (site.images / "folder").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"no image can be listed: 4 left out: link \(links are not followed"):
        site.list()


def test_headers_are_read_without_the_pixels(site):
    for i in range(30):
        site.add(i, i % 2, Rows=2800, Columns=2800, PixelData=bytes(2 * 2800 * 2800))
    before = bytes_read()
    listing, _ = site.list()
    assert listing.files == {"listed": [30, 15, 15]}
    assert bytes_read() - before < 3_000_000


def bytes_read() -> int:
    """What this process has read from files."""
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except OSError:
        pytest.skip("this system does not count what a process reads")


def test_ages_sexes_and_manufacturers_of_a_manifest(site):
    cases = [("006M", "f", "0-17", "F"), ("045", "Male", "40-64", "M"), ("000Y", "W", "40-64", "F"), ("091Y", "", "90+", ""),
             ("999Y", "U", "40-64", ""), ("3 D", "other", "0-17", "O")]  # fmt: skip
    for i, (age, sex, _, _) in enumerate(cases):
        site.add(i, i % 2, PatientAge=age, PatientSex=sex, PatientBirthDate="1971.03.06", StudyDate="2021.03.05")
    _, rows = site.list()
    assert [(row["age"], row["sex"]) for row in rows] == [case[2:] for case in cases]
    assert {row["period"] for row in rows} == {"2021H1"}


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20210302", date(2021, 3, 2)), ("2021.03.02", date(2021, 3, 2)), ("2021-03-02", date(2021, 3, 2)), ("2021/3/2", date(2021, 3, 2)),
        ("02.03.2021", date(2021, 3, 2)), ("20210302101500.000", date(2021, 3, 2)), ("2021-03-02T10:15:00", date(2021, 3, 2)),
        ("20210301-20210331", None), ("2021-03-01-2021-03-31", None), ("2021-03-123", None), ("2021-03-0112", None),
        ("03/02/2021", None), ("2021-13-02", None), ("202132", None), ("", None), ("yesterday", None), ("2021-03.02", None),
    ],
)  # fmt: skip
def test_dates(text, day):
    assert parse_date(text) == day


def test_ages_and_sexes():
    assert [parse_age(text) for text in ("6MO", "45 y.o.", "45 ans", "45 Jahre", "2 wks", "12H")] == pytest.approx(
        [0.5, 45, 45, 45, 14 / 365.25, 0.5 / 365.25]
    )
    assert [parse_age(text) for text in ("067Y", "67", " 067y ", "012M", "052W", "", "X", "-1Y", "000M", "121Y")] == pytest.approx(
        [67, 67, 67, 1, 52 * 7 / 365.25, None, None, None, None, None]
    )
    assert [parse_sex(text) for text in ("M", "m ", "FEMALE", "w", "o", "", "9", "MF")] == ["M", "M", "F", "F", "O", "", "", ""]
    assert age_from_dates(date(1971, 3, 6), date(2021, 3, 5)) == 49
    assert age_from_dates(date(2022, 1, 1), date(2021, 3, 5)) is None
    assert age_from_dates(date(1900, 1, 1), date(2015, 3, 5)) is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("accession;lable\nA0000;1\n", "column label is missing; is the header of column 2 meant"),
        ('"accession;label"\n"A0000;1"\n', "several cells are in one pair of quotes, separated by semicolons"),
        ('"accession"x,label\nA0000,1\n', "the header of column 1 is unknown"),
        ("accession,label,\nA0000,1,\n", "column 3 has no name, since the header ends with a separator"),
        (",accession,label\n0,A0000,1\n", "column 1 has no name, as pandas writes its index"),
        ("Unnamed: 0,accession,label\n0,A0000,1\n", "column 1 has no name, as pandas writes its index"),
        ("accession,label\nA0000,1,2\n", "row 2 has 3 cells, the header has 2"),
        ("accession,lable\nA0000,1\n", "column label is missing; is the header of column 2 meant"),
        ("label\n1\n", "the columns must be label, one of"),
        ("", "is empty"),
        ("accession,label\n", "has no rows"),
    ],
)
def test_tables_of_labels_that_are_refused(site, labels, message):
    site.add(0)
    with pytest.raises(InputError, match=message):
        site.list(labels)


@pytest.mark.parametrize(
    "labels",
    [
        "accession;label;label_date\nA0000;1;05.03.2021\n",
        '"accession";"label";"label_date"\n"A0000";"1";"05.03.2021"\n',
        '"accession"\t"label"\t"label_date"\n"A0000"\t"1"\t"2021-03-05"\n',
    ],
)
def test_tables_of_labels_as_spreadsheets_of_other_countries_write_them(site, labels):
    site.add(0)
    listing, rows = site.list(labels)
    assert listing.files == {"listed": [1, 1, 0]}
    assert rows == site.list("accession,label,label_date\nA0000,1,2021-03-05\n")[1]


def test_ids_that_a_spreadsheet_damaged_are_named_by_pattern(site):
    site.add(0, AccessionNumber="1.23E+05")
    listing, _ = site.list("accession,patient_id,label\n1.23E+05,nan,1\n")
    assert any("accession looks like a number in powers of ten" in line and "row 2" in line for line in listing.warnings)
    assert any("patient_id looks like an empty value" in line for line in listing.warnings)


def test_pictures_need_a_patient_in_the_labels(site):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(site.images / name)
    listing, rows = site.list("image,patient_id,label\na.png,P1,1\nb.png,,0\n")
    assert listing.files == {"listed": [1, 1, 0], "left out: no patient": [1, 0, 1]}
    assert [row["image"] for row in rows] == ["a.png"]


INVISIBLE = ["\u200b", "\ufeff", "\u00ad", "\u3164"]


@pytest.mark.parametrize("nothing", INVISIBLE)
def test_an_id_of_invisible_characters_is_none(site, nothing):
    site.add(0, 0)
    site.add(1, AccessionNumber="")
    site.add(2, AccessionNumber=nothing, SpecificCharacterSet="ISO_IR 192")
    site.add(3, AccessionNumber=nothing, SpecificCharacterSet="ISO_IR 192")
    with pytest.raises(InputError, match="row 3 has no image, accession, patient_id"):
        site.list(f"accession,label\nA0000,0\n{nothing},1\n")
    # The most particular key is the first that there is.
    for key in ("image", "accession"):
        cell = "./" if key == "image" else nothing
        listing, rows = site.list(f"{key},patient_id,label\n{cell},MRN-0000,0\n{cell},MRN-0002,1\n{cell},MRN-0003,1\n")
        assert listing.files == {"listed": [3, 2, 1], "left out: no label": [1, 0, 0]}
    # Studies without a number are not one study, and a patient is named by the file where the label names none.
    assert len({row.get("study_id", "") for row in rows[1:]} - {""}) == 0
    _, rows = site.list(f"accession,patient_id,label\nA0000,{nothing},0\n")
    _, plain = site.list("accession,label\nA0000,0\n")
    assert rows == plain


def test_a_label_given_twice_with_another_patient_is_refused(site):
    site.add(0)
    header = "accession,patient_id,label\n"
    for rows in ("A0000,PX,0\nA0000,PY,0\n", "A0000,PX,0\nA0000,,0\na0000,PY,0\n", "A0000,,0\nA0000,PX,0\nA0000,PY,0\n"):
        with pytest.raises(InputError, match=r"row \d gives another patient_id than row \d of the same accession; keep one") as caught:
            site.list(header + rows)
        assert not any(word in str(caught.value) for word in ("A0000", "PX", "PY"))
    listing, rows = site.list(header + "A0000,PX,0\na0000,px ,0\n")
    assert len(rows) == 1
    assert not listing.warnings


@pytest.mark.parametrize("other", ["PX,2021-03-08,", "PX,,healthy", "PX,2021-03-07,other", ",2021-03-07,healthy"])
def test_a_label_given_twice_with_another_date_or_type_is_said(site, other):
    site.add(0)
    listing, rows = site.list(f"accession,label,patient_id,label_date,negative_type\nA0000,0,PX,2021-03-07,healthy\nA0000,0,{other}\n")
    assert (rows[0]["label_delta_days"], rows[0]["negative_type"]) == ("2", "healthy")
    assert [line for line in listing.warnings if line.endswith("the earlier row is taken (row 3)")]
