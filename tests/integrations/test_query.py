"""The table of studies, the credentials and the addresses: what is refused, and that nothing of it is quoted."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from fixtures.orthanc import certificate
from typer.testing import CliRunner

from sga_monai.cli.main import app
from sga_monai.core.errors import InputError
from sga_monai.integrations.pacs.address import Dicomweb, Dimse
from sga_monai.integrations.pacs.credentials import Credentials, Tls, read_credentials
from sga_monai.integrations.pacs.query import read_query
from sga_monai.integrations.pacs.server import TransferError

HEADER = "accession,patient_id,date_from,date_to,label,label_date,negative_type\n"


def table(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "query.csv"
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return path


def test_rows_by_accession_and_by_patient_and_dates(tmp_path):
    query = read_query(table(tmp_path, "A1,,,,1,2021-03-02,", ",P7,2021-03-01,2021-03-04,0,,Lungenödem", ",P8,2021-03-01,,0,,", ",,,,,,"))
    first, second, third = query.rows
    assert (first.row, first.accession, first.dates, first.label.label, first.label.label_date) == (2, "A1", "", 1, date(2021, 3, 2))
    assert (second.patient_id, second.dates, second.label.negative_type) == ("P7", "20210301-20210304", "Lungenoedem")
    assert third.dates == "20210301-20210301"
    assert [warning for warning in query.warnings if "negative_type" in warning]


def test_studies_that_are_asked_for_twice_with_another_date_are_said(tmp_path):
    query = read_query(table(tmp_path, "A1,,,,1,2021-03-02,", "a1,,,,1,2021-03-03,", "A1,P1,,,1,2021-03-03,"))
    assert [warning for warning in query.warnings if warning.endswith("the earlier row is taken (row 3)")]


def test_what_an_archive_gives_beside_what_was_asked_for_does_not_fit(tmp_path):
    accession, window, both = read_query(
        table(tmp_path, "A1,,,,1,,", ",P7,2021-03-01,2021-03-04,0,,", "A2,P7,2021-03-01,2021-03-04,0,,")
    ).rows
    assert accession.fits("a1 ", "anybody", "")
    assert not accession.fits("A10", "", "")
    assert window.fits("", "p7", "20210304")
    assert not window.fits("", "P7", "20210305")
    assert not window.fits("", "P7", "")
    assert not window.fits("", "P8", "20210302")
    # Accession numbers are those of one department: another patient's is another study.
    assert both.fits("A2", "P7", "20210302")
    assert not both.fits("A2", "P8", "20210302")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (",,,,1,,", "row 2 needs accession, or patient_id with date_from"),
        (",SECRET-P,,,1,,", "row 2 needs accession, or patient_id with date_from"),
        ("\u200b,SECRET-P,,,1,,", "row 2 needs accession, or patient_id with date_from"),
        (",\ufeff,2021-03-01,,1,,", "row 2 needs accession, or patient_id with date_from"),
        ("SECRET*,,,,1,,", "accession holds"),
        (",SECRET?,2021-01-01,,1,,", "patient_id holds"),
        ("SECRET,,2021-02-01,2021-01-01,1,,", "date_to is before date_from"),
        ("SECRET,,,2021-01-01,1,,", "date_to needs date_from"),
        ("SECRET,,2021-13-01,,1,,", "date_from must be a possible day"),
        ("SECRET,,,,2,,", "label must be 0 or 1"),
        ("SECRET,,,,1,soon,", "label_date must be YYYY-MM-DD"),
        ("SECRET,,,,1,,\nsecret,,,,0,,", "row 3 gives another label than an earlier row"),
    ],
)
def test_refused_rows_are_named_and_not_quoted(tmp_path, line, sentence):
    with pytest.raises(InputError, match="row") as caught:
        read_query(table(tmp_path, line))
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value).lower()


def test_credentials_of_a_file_that_others_can_read_are_refused(tmp_path):
    path = tmp_path / "credentials.toml"
    path.write_text('user = "sga"\npassword = "SECRET"\n')
    path.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        read_credentials(path, {})
    path.chmod(0o600)
    assert read_credentials(path, {"SGA_PACS_USER": "other"}) == Credentials("sga", "SECRET")
    assert "SECRET" not in repr(read_credentials(path))


@pytest.mark.parametrize(
    "content", ["user = SECRET", 'user = "SECRET"', 'pin = "SECRET"', "password = 12", 'user="a"\npassword="b"\ntoken="c"']
)
def test_what_is_no_credentials_is_refused_without_a_quote(tmp_path, content):
    path = tmp_path / "credentials.toml"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match="credentials") as caught:
        read_credentials(path, {})
    assert "SECRET" not in str(caught.value)


def test_credentials_of_the_environment():
    assert read_credentials(None, {"SGA_PACS_USER": "u", "SGA_PACS_PASSWORD": "p"}) == Credentials("u", "p")
    assert read_credentials(None, {"SGA_PACS_TOKEN": "t"}) == Credentials(token="t")
    assert not read_credentials(None, {})
    with pytest.raises(InputError, match="both user and password"):
        read_credentials(None, {"SGA_PACS_USER": "u"})


def test_addresses():
    for url in ("http://localhost:8042/dicom-web", "http://127.0.0.1/x", "https://pacs.example.org/dicom-web"):
        assert Dicomweb(url).url == url
    assert Dicomweb("http://pacs.example.org/", plain_http=True)
    with pytest.raises(InputError, match="--plain-http"):
        Dicomweb("http://pacs.example.org/")
    with pytest.raises(InputError, match="--credentials") as caught:
        Dicomweb("https://sga:SECRET@pacs.example.org/")
    assert "SECRET" not in str(caught.value)
    for url in ("pacs.example.org", "ftp://x", "https://", "https://x:99999/", "https://x/?a=b"):
        with pytest.raises(InputError, match="DICOMweb address"):
            Dicomweb(url)


def test_dimse_options():
    assert Dimse("pacs:104", "PACS", retrieve="move", listen="11112").listen == "11112"
    for options in (
        {"address": "pacs"},
        {"called_aet": "SEVENTEEN LETTERS"},
        {"calling_aet": ""},
        {"retrieve": "take"},
        {"retrieve": "move"},
    ):
        with pytest.raises(InputError):
            Dimse(**({"address": "pacs:104", "called_aet": "PACS"} | options))


def test_a_key_that_others_can_read_is_refused(tmp_path):
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("no certificate")
        (tmp_path / name).chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        Tls(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    with pytest.raises(InputError, match="no certificate"):
        Tls(ca=tmp_path / "cert.pem")
    with pytest.raises(InputError, match="no such file"):
        Tls(ca=tmp_path / "absent.pem")


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(tmp_path):
    chain, path = certificate(tmp_path)
    assert Tls(chain, chain, path).server_context()
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"SECRET")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    with pytest.raises(InputError, match="client_key is encrypted"):
        Tls(chain, chain, path)


@pytest.mark.parametrize("address", [Dicomweb("http://localhost/"), Dimse("localhost:104", "PACS")])
def test_without_the_extra_a_sentence_says_which(monkeypatch, address):
    for name in ("dicomweb", "dimse", "storage"):
        monkeypatch.delitem(sys.modules, f"sga_monai.integrations.pacs.{name}", raising=False)
    for name in ("dicomweb_client", "dicomweb_client.web", "pynetdicom"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'sga_monai\[dicom\]'"), address.connector():
        pass


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (
            b"--x\r\nContent-Type: application/dicom\r\n\r\nA\r\nB\r\n--x--\r\n",
            'multipart/related; type="application/dicom"; boundary="x"',
            "",
        ),
        (b"--x\r\nContent-Type: a\r\n\r\nA\r\nB\r\n--x--", "multipart/related; boundary=x; type=a", ""),
        (b"A\r\nB", "application/dicom", ""),
        (
            b"--x\r\nContent-Type: a\r\n\r\nA\r\nB\r\n--x\r\nContent-Type: a\r\n\r\nC\r\n--x--\r\n",
            "multipart/related; boundary=x",
            "protocol",
        ),
        (b"--x\r\nContent-Type: a\r\n\r\nA\r\nB\r\n--x", "multipart/related; boundary=x", "cut"),
        (b"--x\r\nContent-Type: a\r\n\r\nA\r\n", "multipart/related; boundary=x", "cut"),
        (b"<html>", "text/html", "protocol"),
        (b"", "multipart/related; boundary=x", "protocol"),
    ],
)
def test_the_one_part_of_an_answer(body, content_type, code):
    first_part = pytest.importorskip("sga_monai.integrations.pacs.dicomweb").first_part
    if not code:
        assert first_part(body, content_type) == b"A\r\nB"
        return
    with pytest.raises(TransferError) as caught:
        first_part(body, content_type)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "give --dicomweb or --dimse"),
        (["--dicomweb", "http://localhost/", "--dimse", "localhost:104"], "give --dicomweb or --dimse"),
        (["--dimse", "localhost:104"], "--dimse needs --called-aet"),
        (["--dimse", "localhost:104", "--called-aet", "A", "--credentials", "x.toml"], "DIMSE knows no user and password"),
        (["--dicomweb", "http://localhost/", "--called-aet", "A"], "belong to --dimse"),
        (["--dicomweb", "http://localhost/", "--attempts", "0"], "attempts must be a whole number, 1 or more"),
        (["--dicomweb", "http://localhost/", "--workers", "99"], "workers must be a whole number in"),
        (["--dicomweb", "http://localhost/", "--timeout", "0"], "timeout must be"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, options, sentence):
    query = table(tmp_path, "A1,,,,1,,")
    result = CliRunner().invoke(app, ["pacs", "pull", str(query), "--site", "harbor", "--out", str(tmp_path / "out"), *options])
    assert isinstance(result.exception, InputError)
    assert sentence in str(result.exception)
    assert not (tmp_path / "out").exists()
