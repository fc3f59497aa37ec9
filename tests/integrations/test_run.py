"""Plan, retries and accounting of a pull, with a server in memory that fails as it is told to."""

from __future__ import annotations

import contextlib
import csv
import threading
import time
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from fixtures.orthanc import query, radiograph
from pydicom import uid

from sga_monai.core.errors import InputError
from sga_monai.integrations.pacs.accounting import Accounting, Line, remedy
from sga_monai.integrations.pacs.pull import Order, Pulled, pull
from sga_monai.integrations.pacs.query import Wanted
from sga_monai.integrations.pacs.retry import Retry
from sga_monai.integrations.pacs.server import FAILURES, Image, ServerRefusal, Study, TransferError

NOW = Retry(attempts=3, first_s=0)
OBJECT = "1.2.826.0.1.3680043.9.7777.3"


class Memory:
    """A server of files; ``failures`` has codes to raise, by number of the file, before it is given."""

    def __init__(self, files: list[bytes], failures: dict[int, list[str]] | None = None) -> None:
        self.files = {}
        for data in files:
            header = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data), stop_before_pixels=True)
            self.files[str(header.SOPInstanceUID)] = (header, data)
        self.failures = {f"1.2.826.0.1.3680043.9.7777.3.{n}": codes for n, codes in (failures or {}).items()}
        self.asked: Counter[str] = Counter()
        self.together = self.most = 0
        self.lock = threading.Lock()

    def find(self, wanted: Wanted) -> list[Study]:
        # Ignores the keys, as some archives do.
        return list(
            {
                h.StudyInstanceUID: Study(h.StudyInstanceUID, h.AccessionNumber, h.PatientID, h.StudyDate) for h, _ in self.files.values()
            }.values()
        )

    def images(self, study: Study) -> list[Image]:
        headers = [header for header, _ in self.files.values() if header.StudyInstanceUID == study.uid and header.Modality in ("CR", "DX")]
        return [Image(study.uid, header.SeriesInstanceUID, str(header.SOPInstanceUID)) for header in headers]

    def fetch(self, image: Image) -> bytes:
        with self.lock:
            self.asked[image.instance] += 1
            self.together += 1
            self.most = max(self.most, self.together)
        try:
            codes = self.failures.get(image.instance, [])
            if codes:
                code = codes.pop(0)
                raise ServerRefusal("no") if code == "401" else TransferError(code)
            return self.files[image.instance][1]
        finally:
            self.together -= 1

    def close(self) -> None:
        pass


def do(tmp_path: Path, server: Memory, numbers: list[int], **options) -> Pulled:
    order = Order(query(tmp_path / "query.csv", numbers), tmp_path / "out", "harbor", retry=NOW, **options)
    return pull(order, lambda: server)


def outcomes(tmp_path: Path) -> list[tuple[str, str, str]]:
    with (tmp_path / "out/accounting.csv").open() as stream:
        return [(line["row"], line["outcome"], line["reasons"]) for line in csv.DictReader(stream)]


def test_every_row_is_accounted_for(tmp_path):
    lateral = radiograph(3, ViewPosition="LL")
    other = radiograph(4, Modality="CT", SOPClassUID=uid.CTImageStorage)
    damaged = radiograph(5)[:-500]
    hand = radiograph(6, BodyPartExamined="HAND")
    second = radiograph(2, SOPInstanceUID="1.2.826.0.1.3680043.9.7777.3.22", ViewPosition="LATERAL")
    server = Memory([radiograph(1), radiograph(2), second, lateral, other, damaged, hand], {1: ["busy", "cut"], 2: []})
    found = do(tmp_path, server, [1, 2, 3, 4, 5, 6, 9])
    assert outcomes(tmp_path) == [
        ("2", "complete", ""),
        ("3", "complete", "lateral 1"),
        ("4", "rejected: lateral", "lateral 1"),
        ("5", "rejected: modality", ""),
        ("6", "failed: truncated", "truncated 1"),
        ("7", "rejected: examination", "examination 1"),
        ("8", "not found", ""),
    ]
    assert not found.complete
    assert found.listing.files == {"listed": [2, 1, 1]}
    assert found.accounting.studies()["complete"] == (2, 1, 1)
    assert sum(number for number, *_ in found.accounting.studies().values()) == 7
    for result in found.accounting.studies():
        assert result == "complete" or remedy(result)
    # What was fetched and is not wanted is not asked for again; what was damaged is.
    before = server.asked.copy()
    again = do(tmp_path, server, [1, 2, 3, 4, 5, 6, 9])
    assert {key[-2:].strip("."): number for key, number in (server.asked - before).items()} == {"5": 1}
    assert again.accounting.objects()["there already"] == 2
    assert [line[:2] for line in outcomes(tmp_path)][2] == ("4", "rejected: lateral")


def test_an_object_without_an_image_is_rejected_and_a_radiograph_that_lost_its_own_is_damaged(tmp_path):
    raw = pydicom.dcmread(pydicom.filebase.DicomBytesIO(radiograph(1, SOPClassUID="1.3.46.670589.2.4.1.1", Modality="DX")))
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(raw, keyword)
    buffer = pydicom.filebase.DicomBytesIO()
    raw.save_as(buffer)
    lost = radiograph(2)
    lost = lost[: lost.index(b"\x28\x00\x02\x00US")]
    server = Memory([buffer.getvalue(), lost, radiograph(3)])
    do(tmp_path, server, [1, 2, 3])
    expected = [("2", "rejected: no_pixels", "no_pixels 1"), ("3", "failed: truncated", "truncated 1"), ("4", "complete", "")]
    assert outcomes(tmp_path) == expected
    do(tmp_path, server, [1, 2, 3])
    assert outcomes(tmp_path) == expected
    assert [server.asked[f"1.2.826.0.1.3680043.9.7777.3.{n}"] for n in (1, 2, 3)] == [1, 2, 1]


def test_without_the_list_of_rejections_a_corrected_header_is_seen(tmp_path):
    do(tmp_path, Memory([radiograph(1, ViewPosition="LL")]), [1])
    corrected = Memory([radiograph(1)])
    assert do(tmp_path, corrected, [1]).accounting.objects() == {"rejected: lateral": 1}
    (tmp_path / "out/rejected.txt").unlink()
    assert do(tmp_path, corrected, [1]).complete


def test_a_whole_pull_needs_no_second_look(tmp_path):
    found = do(tmp_path, Memory([radiograph(n) for n in range(8)]), list(range(8)))
    assert found.complete
    files = list((tmp_path / "out/images").rglob("*.dcm"))
    assert sorted(path.read_bytes() for path in files) == sorted(radiograph(n) for n in range(8))


def test_names_and_tables_have_no_identifier(tmp_path):
    do(tmp_path, Memory([radiograph(n) for n in range(3)] + [radiograph(3, ViewPosition="LL")]), [0, 1, 2, 3, 4])
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.name for path in written if path.suffix != ".dcm"} == {
        "labels.csv", "site.csv", "site.key", "accounting.csv", "rejected.txt",
    }  # fmt: skip
    text = "".join(str(path.relative_to(tmp_path)) + ("" if path.suffix == ".dcm" else path.read_text()) for path in written)
    # With its dot, since a key may hold any digits.
    for token in ("MRN", "ACC-", "DOE", ".7777", "2021-0105", "19570203"):
        assert token not in text
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0


def test_failures_that_may_pass_are_asked_again_and_no_others(tmp_path):
    server = Memory([radiograph(n) for n in range(4)], {0: ["timeout"] * 2, 1: ["server_error"] * 9, 2: ["gone"] * 9})
    found = do(tmp_path, server, [0, 1, 2, 3])
    assert [server.asked[f"1.2.826.0.1.3680043.9.7777.3.{n}"] for n in range(4)] == [3, 3, 1, 1]
    assert [outcome for _, outcome, _ in outcomes(tmp_path)] == ["complete", "failed: server_error", "failed: gone", "complete"]
    assert found.listing.files["listed"][0] == 2


def test_a_server_that_is_gone_ends_the_pull_and_the_same_call_goes_on(tmp_path):
    server = Memory([radiograph(n) for n in range(6)], {2: ["unreachable"] * 9})
    with pytest.raises(InputError, match="give the same command again"):
        do(tmp_path, server, list(range(6)), workers=1)
    assert [outcome for _, outcome, _ in outcomes(tmp_path)] == ["complete"] * 2 + ["not tried"] * 4
    assert not (tmp_path / "out/site.csv").exists()
    server.failures.clear()
    before = server.asked.copy()
    assert do(tmp_path, server, list(range(6)), workers=1).complete
    assert sorted(key[-1] for key in server.asked - before) == ["2", "3", "4", "5"]


def test_what_a_killed_pull_leaves_half_written_is_removed(tmp_path):
    server = Memory([radiograph(n) for n in range(2)])
    (tmp_path / "out/images/1234").mkdir(parents=True)
    (tmp_path / "out/images/1234/.5678.dcm.tmp").write_bytes(radiograph(0)[:900])
    found = do(tmp_path, server, [0, 1])
    assert found.complete
    assert found.listing.files == {"listed": [2, 1, 1]}


def test_the_accounting_has_what_was_still_being_fetched_when_the_server_refused(tmp_path):
    begun, refused = threading.Event(), threading.Event()

    class Refusing(Memory):
        def fetch(self, image: Image) -> bytes:
            if image.instance.endswith(".1"):
                begun.wait(5)
                refused.set()
                raise ServerRefusal("no")
            begun.set()
            refused.wait(5)
            time.sleep(0.2)
            return super().fetch(image)

    with pytest.raises(ServerRefusal):
        do(tmp_path, Refusing([radiograph(n) for n in range(2)]), [0, 1], workers=2)
    assert [outcome for _, outcome, _ in outcomes(tmp_path)] == ["complete", "not tried"]
    assert len(list((tmp_path / "out/images").rglob("*.dcm"))) == 1


@pytest.mark.parametrize(
    ("codes", "asked"),
    [
        (["busy"] * 3 + ["server_error"] * 9, 6),
        (["timeout"] * 5 + ["server_error"] * 9, 6),
        (["server_error", "busy"] * 9, 5),
        (["server_error"] * 9, 3),
        (["busy", "gone"], 2),
    ],
)
def test_the_last_attempt_raises_what_it_failed_with(codes, asked):
    left = list(codes)

    def request() -> None:
        raise TransferError(left.pop(0))

    with pytest.raises(TransferError) as caught:
        Retry(6, 0).call(request, threading.Event())
    assert len(codes) - len(left) == asked
    assert caught.value.code == codes[asked - 1]


def test_who_is_refused_does_not_ask_again(tmp_path):
    server = Memory([radiograph(n) for n in range(3)], {0: ["401"]})
    with pytest.raises(ServerRefusal):
        do(tmp_path, server, [0, 1, 2], workers=1)
    assert sum(server.asked.values()) == 1


def test_no_more_connections_than_asked_for(tmp_path):
    server = Memory([radiograph(n) for n in range(24)])
    assert do(tmp_path, server, list(range(24)), workers=3).complete
    assert 1 <= server.most <= 3


def test_two_labels_for_one_study_are_a_conflict(tmp_path):
    server = Memory([radiograph(1), radiograph(2)])
    path = tmp_path / "query.csv"
    path.write_text(
        "accession,patient_id,date_from,label\nACC-00001,,,1\n,MRN-00001,2021-02-05,0\nACC-00002,,,0\n,MRN-00002,2021-03-05,0\n"
    )
    found = pull(Order(path, tmp_path / "out", "harbor", retry=NOW), lambda: server)
    assert [outcome for _, outcome, _ in outcomes(tmp_path)] == ["two labels", "two labels", "complete", "found by an earlier row"]
    assert sum(server.asked.values()) == 1
    assert found.listing.files == {"listed": [1, 0, 1]}


def test_one_accession_of_several_patients_is_nobodys(tmp_path):
    server = Memory([radiograph(1), radiograph(2, AccessionNumber="ACC-00001")])
    do(tmp_path, server, [1])
    assert outcomes(tmp_path) == [("2", "rejected: several patients", "")]
    (tmp_path / "query.csv").write_text("accession,patient_id,label\nACC-00001,MRN-00002,0\n")
    assert pull(Order(tmp_path / "query.csv", tmp_path / "out", "harbor", retry=NOW), lambda: server).complete


def test_studies_of_patients_whom_the_archive_does_not_tell_are_nobodys(tmp_path):
    class Silent(Memory):
        def find(self, wanted: Wanted) -> list[Study]:
            return [Study(study.uid, study.accession, "", study.day) for study in super().find(wanted)]

    do(tmp_path, Silent([radiograph(1), radiograph(2, AccessionNumber="ACC-00001")]), [1])
    assert outcomes(tmp_path) == [("2", "rejected: several patients", "")]
    assert do(tmp_path, Silent([radiograph(1)]), [1]).complete


def test_one_study_of_two_patients_is_nobodys(tmp_path):
    class Twice(Memory):
        def find(self, wanted: Wanted) -> list[Study]:
            (study,) = super().find(wanted)
            return [study, Study(study.uid, study.accession, "MRN-00777", study.day)]

    do(tmp_path, Twice([radiograph(1)]), [1])
    assert outcomes(tmp_path) == [("2", "rejected: several patients", "")]


def test_an_object_of_another_patient_than_its_study_is_not_kept(tmp_path):
    do(tmp_path, archive_and_file("MRN-00001", "MRN-00777"), [1])
    assert outcomes(tmp_path) == [("2", "failed: other_patient", "other_patient 1")]
    # However it was typed, and whoever it is whom the archive does not tell.
    assert do(tmp_path, archive_and_file("mrn-00777 ", "MRN-00777"), [1]).complete
    assert do(tmp_path, archive_and_file("", "MRN-00777"), [1]).complete


def test_a_study_that_the_archive_gave_to_another_patient_is_fetched_again(tmp_path):
    do(tmp_path, archive_and_file("MRN-00001", "MRN-00001"), [1])
    # In the archive's database, not yet in its file.
    do(tmp_path, archive_and_file("MRN-00777", "MRN-00001"), [1])
    assert outcomes(tmp_path) == [("2", "failed: other_patient", "other_patient 1")]
    assert not list((tmp_path / "out/images").rglob("*.dcm"))
    assert not (tmp_path / "out/site.csv").exists()
    found = do(tmp_path, archive_and_file("MRN-00777", "MRN-00777"), [1])
    assert found.accounting.objects() == {"fetched": 1}
    (path,) = (tmp_path / "out/images").rglob("*.dcm")
    assert pydicom.dcmread(path).PatientID == "MRN-00777"
    assert do(tmp_path, archive_and_file("MRN-00777", "MRN-00777"), [1]).accounting.objects() == {"there already": 1}


def archive_and_file(known: str, written: str) -> Memory:
    """An archive that knows the patient of study 1 by one id, and whose file has another."""
    server = Memory([radiograph(1, PatientID=known)])
    server.files[f"{OBJECT}.1"] = (server.files[f"{OBJECT}.1"][0], radiograph(1, PatientID=written))
    return server


def test_what_the_archive_has_withdrawn_is_put_aside_and_listed_nowhere(tmp_path):
    first, second = radiograph(1), radiograph(1, SOPInstanceUID=f"{OBJECT}.11", ViewPosition="AP")
    assert do(tmp_path, Memory([first, second]), [1]).listing.files == {"listed": [2, 2, 0]}
    found = do(tmp_path, Memory([first]), [1])
    assert found.complete
    assert found.accounting.objects() == {"there already": 1}
    assert found.listing.files == {"listed": [1, 1, 0]}
    (sentence,) = found.warnings
    assert sentence.startswith("1 images that the archive no longer has")
    assert [path.read_bytes() for path in (tmp_path / "out/withdrawn").rglob("*.dcm")] == [second]
    assert do(tmp_path, Memory([first, second]), [1]).accounting.objects() == {"there already": 1, "fetched": 1}


@pytest.mark.parametrize("failure", ["gone", "unreachable"])
def test_a_pull_that_lists_nothing_leaves_no_earlier_manifest(tmp_path, failure):
    do(tmp_path, Memory([radiograph(1)]), [1])
    server = Memory([radiograph(2)], {2: [failure] * 9})
    with pytest.raises(InputError) if failure == "unreachable" else contextlib.nullcontext():
        do(tmp_path, server, [2])
    assert {path.name for path in (tmp_path / "out").glob("*.csv")} == {"accounting.csv"}


def test_an_object_larger_than_any_file_that_is_read_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("sga_monai.integrations.pacs.received.MAX_BYTES", 1000)
    do(tmp_path, Memory([radiograph(1)]), [1])
    assert outcomes(tmp_path) == [("2", "failed: too_large", "too_large 1")]


def test_whatever_a_library_raises_is_a_code(tmp_path, capfd):
    class Strange(Memory):
        def images(self, study: Study) -> list[Image]:
            raise LookupError("SECRET")

    do(tmp_path, Strange([radiograph(1)]), [1])
    assert outcomes(tmp_path) == [("2", "failed: protocol", "")]
    assert "SECRET" not in "".join(capfd.readouterr())


def test_a_site_without_a_name_is_refused_before_anything_is_fetched(tmp_path):
    with pytest.raises(InputError, match="site must be written in"):
        Order(tmp_path / "query.csv", tmp_path / "out", "病院")


def test_another_object_than_the_one_asked_for_is_not_kept(tmp_path):
    server = Memory([radiograph(1)])
    header, _ = server.files["1.2.826.0.1.3680043.9.7777.3.1"]
    server.files["1.2.826.0.1.3680043.9.7777.3.1"] = (header, radiograph(2))
    do(tmp_path, server, [1])
    assert outcomes(tmp_path) == [("2", "failed: other_object", "other_object 1")]


def test_results_of_a_line():
    assert Line(2, 1).result == "rejected: modality"
    assert Line(2, 1, objects=Counter({"fetched": 1, "rejected: lateral": 3})).result == "complete"
    assert Line(2, 1, objects=Counter({"fetched": 1, "failed: cut": 1})).result == "failed: cut"
    assert Accounting([Line(2, 1, objects=Counter({"there already": 1}))]).complete
    assert all(remedy(f"failed: {code}") for code in FAILURES)
