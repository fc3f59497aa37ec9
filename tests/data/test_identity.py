"""One patient however the id was typed, damaged ids named by pattern, one alphabet for what may leave."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sga_monai.cli.manifest import app
from sga_monai.core.errors import InputError
from sga_monai.core.files import FORMULA
from sga_monai.core.text import is_plain, plain_text
from sga_monai.data.datalist import load_manifest
from sga_monai.data.identity import damaged_ids, same_id, same_name
from sga_monai.data.manifest import check_external, read_manifest
from sga_monai.data.pseudonyms import patient_key
from sga_monai.hospital.release import TEXT

HEADER = "image,label,patient_id,site,split\n"
ONE_PATIENT = [
    ("M\u00fcller-1", "Mu\u0308ller-1"), ("MRN-1", "MRN\u200b-1"), ("MRN-1", "\ufeffmrn-1 "), ("12", "\uff11\uff12"),
    ("MRN-1", "MRN\u20111"), ("12", "\u0661\u0662"),
    ("MRN-1", "MRN\u20131"), ("Stra\u00dfe", "STRASSE"), ("A1", "A1\u00a0"), ("A1", "A\u00ad1"), ("\ufb01x", "FIX"),
    ("A 1", "a  1"), ("A 1", "A\u00a0\u20091"), ("A1", "A\u034f1"), ("A1", "A1\ufe0f"), ("A1", "A\u31641"), ("A1", "\u202aA1\u202c"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), ONE_PATIENT)
def test_one_patient_is_not_two(tmp_path, first, second):
    assert same_id(first) == same_id(second)
    assert patient_key(first, b"k" * 32) == patient_key(second, b"k" * 32)
    (tmp_path / "m.csv").write_text(f"{HEADER}a.png,0,{first},x,train\nb.png,1,{second},x,test\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"row 3: the patient of row 2 \(train\) is also in test"):
        read_manifest(tmp_path / "m.csv")
    rows = [{"patient_id": patient, "site": site, "row": "2"} for patient, site in ((first, "x"), (second, "y"))]
    with pytest.raises(InputError, match="1 rows have a patient of the training manifest"):
        check_external(rows[:1], rows[1:], "e.csv")


@pytest.mark.parametrize("nothing", ["\u200b", "\ufeff", "\u00ad", "\u3164"])
def test_a_patient_of_invisible_characters_is_none(tmp_path, nothing):
    (tmp_path / "m.csv").write_text(f"{HEADER}a.png,0,{nothing},x,train\nb.png,1,{nothing},x,test\n", encoding="utf-8")
    with pytest.raises(InputError, match="row 2: patient_id is empty; row 3: patient_id is empty"):
        read_manifest(tmp_path / "m.csv")


def test_other_patients_are_others():
    ids = ["1", "10", "01", "A1", "A-1", "A 1", "A.1", "\u00e4", "a"]
    assert len({same_id(text) for text in ids}) == len(ids)


@given(st.text())
def test_identity_is_stable(text):
    assert same_id(same_id(text)) == same_id(text)
    assert same_id(unicodedata.normalize("NFD", text)) == same_id(unicodedata.normalize("NFC", text))


@given(st.text())
def test_plain_text_may_leave_and_is_no_formula(text):
    import re

    plain = plain_text(text)
    assert plain == "" or re.fullmatch(TEXT["pattern"], plain)
    assert not plain.startswith(FORMULA)
    assert plain_text(plain) == plain
    assert is_plain(plain)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Example, Inc.", "Example Inc."), ("Lungen\u00f6dem", "Lungenoedem"), ("Lungeno\u0308dem", "Lungenoedem"),
        ("Stra\u00dfe 3", "Strasse 3"),
        ("Soci\u00e9t\u00e9", "Societe"), ("\u0141\u00f3d\u017a", "Lodz"), ("Smith & Nephew", "Smith + Nephew"),
        ("O'Brien\u2122", "OBrien"), ("GE\u2013Healthcare", "GE-Healthcare"),
        ("other_pneumonia", "other_pneumonia"), ("\u533b\u9662", ""), ("=cmd", "cmd"),
        ("-1+1", "1+1"), ("  a  b ", "a b"), ("a\tb\nc", "a b c"),
        ("---", ""), ("x" * 99, "x" * 64),
    ],
)  # fmt: skip
def test_spellings(text, plain):
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("1.23E+05", "powers of ten"), ("1,23E+05", "powers of ten"), ("4e+15", "powers of ten"), ("12345.0", "decimals"),
        ("nan", "empty"),
        ("None", "empty"), ("#N/A", "empty"), ("NULL", "empty"), ("#REF!", "error"), ("####", "error"), ("#NAME?", "error"),
        ("1-Mar", "date"),
        ("Mrz 21", "date"), ("2021-03-01", "date"), ("01.03.2021", "date"), ("1234567890123450000", "15 digits"),
        ("ANONYMOUS", "placeholder"),
        ("0000", "placeholder"),
    ],
)  # fmt: skip
def test_damaged_ids_are_named_by_their_pattern(text, pattern):
    (sentence,) = damaged_ids([(2, text), (3, "MRN-1"), (4, text)], "patient_id")
    assert pattern in sentence
    assert "in 2 rows (row 2, 4)" in sentence


def test_ordinary_ids_are_not_called_damaged():
    ids = [
        "1",
        "0",
        "00123",
        "123456",
        "MRN-12",
        "PAT-001",
        "P1",
        "1234567890",
        "12e4567890123456",
        "a" * 16,
        "1.2.840.113619",
        "E105",
        "2021-17",
        "may001",
        "JAN",
        "MAR-001",
        "DEC12",
    ]
    assert damaged_ids(enumerate(ids), "patient_id") == []


@pytest.mark.parametrize(
    "text",
    ["#NV", "#VALEUR!", "#NOMBRE!", "#\u00a1REF!", "#RIF!", "#DIV/0!", "M\u00e4rz 21", "1. Mrz", "Jan-05", "5 May 2021", "TRUE", "1e+05"],
)
def test_what_spreadsheets_of_other_languages_leave_is_named(text):
    assert len(damaged_ids([(2, text), (3, "MRN-1")], "patient_id")) == 1


def test_ids_alike_but_for_leading_zeros_are_named():
    (sentence,) = damaged_ids([(2, "0012345"), (3, "12345"), (4, "00777"), (5, "MRN-01"), (6, "MRN-1")], "patient_id")
    assert sentence.startswith("1 patient_id are like others but for leading zeros")
    assert "12345" not in sentence


@pytest.mark.parametrize(("first", "second"), [("0A12", "A12"), ("0a12", "A12"), (" 0A12", "a12"), ("012", "0012"), ("\uff1012", "12")])
def test_zeros_count_in_ids_of_any_spelling(first, second):
    (sentence,) = damaged_ids([(2, first), (3, second)], "patient_id")
    assert sentence.startswith("1 patient_id are like others but for leading zeros")
    assert not damaged_ids([(2, second), (3, second.lower())], "patient_id")


def test_names_of_files():
    assert same_name(r"sub\1.dcm") == same_name("./sub//1.dcm") == "sub/1.dcm"
    assert same_name(unicodedata.normalize("NFD", "M\u00fcller.dcm")) == "M\u00fcller.dcm"


def test_a_manifest_is_put_right_and_says_so(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.png").write_bytes(b"y")
    header = HEADER.strip() + ",manufacturer,negative_type,sha256\n"
    text = f'{header}a.png,0,1.23E+05,Klinik S\u00fcd,test,"Example, Inc.",\u80ba\u708e,{"AB" * 32}\n,,,,,,,\nb.png,1,nan,Haus 2,test,,,\n'
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    warnings: list[str] = []
    rows = read_manifest(tmp_path / "m.csv", warnings=warnings)
    assert [(row["site"], row["manufacturer"], row["negative_type"], row["row"]) for row in rows] == [
        ("Klinik Sued", "Example Inc.", "", "2"),
        ("Haus 2", "", "", "4"),
    ]
    assert rows[0]["sha256"] == "ab" * 32
    with caplog.at_level(logging.WARNING):
        load_manifest(tmp_path / "m.csv", tmp_path, "test", allow_missing=True)
    for part in (
        "manufacturer: other characters than",
        "negative_type: no letter A to Z",
        "powers of ten",
        "an empty value",
        "2 sites in one manifest",
    ):
        assert part in caplog.text
    assert not any(word in caplog.text for word in ("Example", "1.23E+05 ", "S\u00fcd"))
    # The same sentences on the screen of a person who checks.
    (tmp_path / "m.csv").write_text(text.replace("AB" * 32, ""), encoding="utf-8")
    result = CliRunner().invoke(app, ["check", str(tmp_path / "m.csv"), "--dataset-dir", str(tmp_path)])
    assert result.exit_code == 2
    for part in ("manufacturer: other characters", "powers of ten", "2 sites in one manifest"):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Image;Label;patient_id;site;split\na.png;0;1;x;test\n", "column image is missing; is the header of column 1 meant"),
        ("image;label;patient_id;site;split\na.png;0;1;x,y\n", "row 2 has 4 cells, the header has 5"),
        ('"image;label","patient_id;site;split"\n', "several cells are in one pair of quotes, separated by semicolons"),
        ("Export of March;\nimage;label;patient_id;site;split\n", "column image is missing; the first row must name the columns"),
        (HEADER.strip() + ",\na.png,0,1,x,test,\n", "column 6 has no name, since the header ends with a separator"),
        ("," + HEADER + "0,a.png,0,1,x,test\n", "column 1 has no name, as pandas writes its index; write the table with index=False"),
        ("image,,label,patient_id,site,split\n", "column 2 has no name; delete the column"),
    ],
)
def test_the_sentence_names_the_separator_or_the_column(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("above", ["", "\n", "SSSS\n", "\u00a0S\n", "sep=S\n"])
def test_other_separators_than_commas_are_read(tmp_path, separator, above):
    text = HEADER + "a.png,0,1,x,test\nb.png,1,2,x,test\n"
    (tmp_path / "commas.csv").write_text(text)
    (tmp_path / "m.csv").write_text((above.replace("S", ",") + text).replace(",", separator))
    rows = [{**row, "row": ""} for row in read_manifest(tmp_path / "m.csv")]
    assert rows == [{**row, "row": ""} for row in read_manifest(tmp_path / "commas.csv")]


@pytest.mark.parametrize("text", [";;;\n;;;\n", "\n", ""])
def test_separators_alone_are_an_empty_table(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match="is empty"):
        read_manifest(tmp_path / "m.csv")


def test_an_enormous_line_and_a_locked_file_are_refused_in_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "m.csv").write_text("x" * 140_000 + "\n")
    with pytest.raises(InputError, match="column image is missing"):
        read_manifest(tmp_path / "m.csv")

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(InputError, match="cannot be opened; close it in other programs, or ask for access"):
        read_manifest(tmp_path / "m.csv")


def test_a_site_without_a_latin_letter_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text(HEADER + "a.png,0,1,\u533b\u9662,test\n", encoding="utf-8")
    with pytest.raises(InputError, match="row 2: site must hold a letter A to Z or a digit"):
        read_manifest(tmp_path / "m.csv")
