"""What is no frontal chest radiograph is known by its header, however it is spelled or coded."""

from __future__ import annotations

import itertools

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.sr._snomed_dict import mapping
from pydicom.sr.codedict import codes

from sga_monai.core.errors import ReadError
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.dicom import read_facts
from sga_monai.imaging.examination import FRONTAL_VIEWS, LATERAL_VIEWS, OBLIQUE_VIEWS, OTHER_MODALITIES
from sga_monai.imaging.read import decode, read_cxr

LATERAL = [
    "LL", "RL", "LLD", "RLD", "LLO", "RLO", "L", "LAT", "LATERAL", "LLAT", "RLAT", "LATL", "LATR", "LATERALE", "LATERALIS",
    "LATERALLEFT", "LTLAT", "RTLAT", "XLAT", "XTLAT", "XTL", "HBL", "PROFIL", "PERFIL", "SEITLICH", "DECUB", "XTABLE LAT",
    "LATERAL LEFT", "Left lateral", "left-lateral", "L LAT", "R LAT", "LAT L", "LAT_L", "L_LAT", "CROSS TABLE LATERAL",
    "CROSS-TABLE", "X-TABLE LAT", "LT LATERAL", "ERECT LAT", "LATERO-LATERAL", "Chest LAT", "LAT CHEST", "LATERAL DECUB",
    "PA AND LAT", "PA/LAT", "AP+LAT", "L-R", "R->L", "RIGHT TO LEFT", "lat. li.", "Thorax seitlich", "thorax de profil",
    "HORIZONTAL BEAM LAT", "AP LL", "HORIZONTAL BEAM", "CROSSTAB", "LLDEC", "LDECUB", "DEKUBITUS", "LATUP", "LATERECT", "WLAT", "SEITL.",
    "SEITENAUFNAHME", "LATÉRAL", "Vue latérale", "BOČNÍ", "BOCZNA", "ZIJDELINGS", "БОКОВАЯ", "侧位", "側面", "측면", "PROF", "SAG",
]  # fmt: skip
OBLIQUE = ["LAO", "RAO", "LPO", "RPO", "OBLIQUE", "OBL", "LOBL", "AP OBLIQUE", "LEFT ANTERIOR OBLIQUE", "RT OBL", "PAOBL", "oblique 45"]
FRONTAL = [
    "PA", "AP", "pa", "AP ", "PA CHEST", "AP SUPINE", "AP PORTABLE", "PA ERECT", "AP AXIAL", "AP LORDOTIC", "AP FLAT", "FLAT",
    "FLAT PLATE", "PLATE", "BILATERAL AP", "AP DECUBITO SUPINO", "POSTERO_ANTERIOR", "posteroanterior", "Antero-posterior",
    "FRONTAL", "ANT", "", "SITTING", "P.A.", "LATE INSPIRATION AP", "AP INHALATION", "VENTILATED AP", "DOE^SECRET", "PA L", "AP R",
    "MOBILE", "PORT", "ERECT LEFT", "SIDE", "INSIDE", "BEDSIDE", "RIGHT SIDE UP", "LATE", "BILATERAL", "COLLATERAL", "APEX",
    "DORSOVENTRAL", "p.a. stehend", "AP LIEGEND", "正位", "STATIVE",
]  # fmt: skip


def code_of(path, **options: object) -> str | None:
    try:
        read_cxr(path, **options)
    except ReadError as error:
        return error.code
    return None


def as_written(text: str) -> str:
    """A code string as a writer puts it that has UTF-8 alone."""
    return text.encode().decode("latin-1")


@pytest.mark.parametrize("view", LATERAL + OBLIQUE)
def test_lateral_and_oblique_views_by_their_position(dicom_file, drawn, view):
    path = dicom_file(drawn, ViewPosition=as_written(view))
    assert code_of(path) == "lateral"
    assert code_of(path, lateral=True) is None
    fact = read_facts(path.read_bytes())["view"]
    assert fact in (LATERAL_VIEWS if view in LATERAL else OBLIQUE_VIEWS)


@pytest.mark.parametrize("view", FRONTAL)
def test_frontal_and_unknown_views_are_read(dicom_file, drawn, view):
    path = dicom_file(drawn, ViewPosition=as_written(view))
    assert code_of(path) is None
    words = {"POSTERO_ANTERIOR": "PA", "posteroanterior": "PA", "Antero-posterior": "AP"}.get(view, view).upper().split()
    assert read_facts(path.read_bytes())["view"] == next((one for one in FRONTAL_VIEWS if one in words), "other" if view else "")


def coded(value: str, scheme: str, meaning: str) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def expected_of(meaning: str) -> str | None:
    """By the words of CID 4010 itself."""
    if meaning in ("frontal", "antero-posterior", "postero-anterior"):
        return None
    if "caud" not in meaning and any(word in meaning.lower() for word in ("lateral", "sagittal", "oblique", "medial")):
        return "lateral"
    if meaning in ("axial", "tangential"):
        return None
    return "examination"


def retired_codes(value: str) -> list[str]:
    """The codes of SNOMED RT that files of earlier years have for the same."""
    return [retired for retired, current in mapping["SRT"].items() if current == value]


VIEWS = codes.cid4010.concepts
FRONTAL_CODES = {"Frontal": "FRONTAL", "AnteroPosterior": "AP", "PosteroAnterior": "PA"}


@pytest.mark.parametrize("name", list(VIEWS))
def test_every_code_of_the_dx_views(dicom_file, drawn, name):
    view = VIEWS[name]
    schemes = [(view.value, "SCT"), *((retired, scheme) for retired in retired_codes(view.value) for scheme in ("SRT", "SNM3"))]
    assert len(schemes) > 1 or view.meaning == "Occlusal projection"
    for value, scheme in schemes:
        # The meaning may be in any language.
        for meaning in (view.meaning, "Projektion"):
            path = dicom_file(drawn, ViewCodeSequence=[coded(value, scheme, meaning)])
            assert code_of(path) == expected_of(view.meaning), (value, scheme, view.meaning)
            if name in FRONTAL_CODES:
                assert read_facts(path.read_bytes())["view"] == FRONTAL_CODES[name]


def test_codes_that_are_long_or_a_urn(dicom_file, drawn):
    for keyword, value in (
        ("LongCodeValue", "399067008"),
        ("URNCodeValue", "http://snomed.info/id/399067008"),
        ("URNCodeValue", "urn:x:399067008"),
    ):
        item = pydicom.Dataset()
        item.CodeMeaning = "Projektion"
        setattr(item, keyword, value)
        assert code_of(dicom_file(drawn, ViewCodeSequence=[item])) == "lateral"


def test_codes_of_ones_own_by_their_meaning(dicom_file, drawn):
    assert code_of(dicom_file(drawn, ViewCodeSequence=[coded("LATV", "99LOCAL", "Lateral view")])) == "lateral"
    assert code_of(dicom_file(drawn, ViewCodeSequence=[coded("R-10226", "SRT", "lateral oblique")])) == "lateral"
    assert code_of(dicom_file(drawn, ViewCodeSequence=[coded("399173006", "99LOCAL", "frontal")])) is None
    assert code_of(dicom_file(drawn, ViewCodeSequence=[coded("X", "99LOCAL", "PA")], ViewPosition="LL")) == "lateral"
    assert code_of(dicom_file(drawn, ViewCodeSequence=[coded("R-10236", "SRT", "left lateral")], ViewPosition="PA")) == "lateral"


@pytest.mark.parametrize(
    "pair", [*itertools.product("AP", "FH"), *itertools.product("FH", "AP"), ("AL", "F"), ("PR", "FA"), ("F", "AL"), ("A", "L")]
)
def test_lateral_views_by_their_orientation(dicom_file, drawn, pair):
    path = dicom_file(drawn, PatientOrientation=list(pair))
    assert code_of(path) == "lateral"
    assert code_of(path, orientation="stored") == "lateral"
    assert np.array_equal(read_cxr(path, lateral=True), (drawn / 65535).astype(np.float32))


def test_descriptions_are_not_asked(dicom_file, drawn):
    """They are of the whole study."""
    assert code_of(dicom_file(drawn, SeriesDescription="CHEST LAT", StudyDescription="CHEST PA AND LAT", ProtocolName="LATERAL")) is None


@pytest.mark.parametrize("modality", ["CR", "DX", "DR", "RG", "OT", "XR", "", None, "cr", "DX ", "CXR"])
def test_modalities_of_radiographs(dicom_file, drawn, modality):
    assert code_of(dicom_file(drawn, **({} if modality is None else {"Modality": modality}))) is None


@pytest.mark.parametrize("modality", sorted(OTHER_MODALITIES))
def test_other_modalities(dicom_file, drawn, modality):
    path = dicom_file(drawn, Modality=modality)
    assert code_of(path) == "examination"
    assert code_of(path, other_examinations=True) is None
    assert read_facts(path.read_bytes())["modality"] == modality


def test_storage_classes_where_the_modality_is_absent(dicom_file, drawn):
    for name, modality in (
        ("CTImageStorage", "CT"), ("EnhancedMRImageStorage", "MR"), ("UltrasoundImageStorage", "US"), ("NuclearMedicineImageStorage", "NM"),
        ("DigitalMammographyXRayImageStorageForPresentation", "MG"), ("DigitalIntraOralXRayImageStorageForPresentation", "IO"),
        ("XRayAngiographicImageStorage", "XA"), ("XRayRadiofluoroscopicImageStorage", "RF"), ("VLPhotographicImageStorage", "XC"),
        ("PositronEmissionTomographyImageStorage", "PT"), ("RTImageStorage", "RTIMAGE"), ("BreastTomosynthesisImageStorage", "MG"),
    ):  # fmt: skip
        path = dicom_file(drawn, SOPClassUID=getattr(uid, name))
        assert code_of(path) == "examination"
        assert read_facts(path.read_bytes())["modality"] == modality
        assert code_of(dicom_file(drawn, SOPClassUID=getattr(uid, name), Modality="DX")) is None
    for name in ("ComputedRadiographyImageStorage", "DigitalXRayImageStorageForPresentation", "SecondaryCaptureImageStorage"):
        assert code_of(dicom_file(drawn, SOPClassUID=getattr(uid, name))) is None


CHESTS = [
    "CHEST", "Thorax", "TORAX", "LUNG", "LUNGS", "HEART", "PORT CHEST", "CHEST PA", "NECKCHEST", "CHESTABDOMEN", "CHEST_ABDOMEN",
    "CHESTABDPELVIS", "NECK CHEST ABDOMEN", "THORACIC", "WHOLEBODY", "TRUNK", "RIB", "RIBS", "UPPER CHEST", "MEDIASTINUM",
    "CHEST SPINE",
]  # fmt: skip
OTHERS = {
    "HEAD": "HEAD", "HAND": "HAND", "HANDS": "HAND", "SKULL": "SKULL", "ABDOMEN": "ABDOMEN", "ABD": "ABDOMEN", "ABDO": "ABDOMEN",
    "KNEE": "KNEE", "PELVIS": "PELVIS", "HIP": "HIP", "ANKLE": "ANKLE", "FOOT": "FOOT", "LSPINE": "SPINE", "C SPINE": "SPINE",
    "TSPINE": "SPINE", "THORACIC SPINE": "SPINE", "Lumbar spine": "SPINE", "SHOULDER": "SHOULDER", "CLAVICLE": "CLAVICLE",
    "WRIST": "WRIST", "ELBOW": "ELBOW", "EXTREMITY": "EXTREMITY", "UP_EXM FOREARM": "FOREARM", "JAW": "JAW", "BREAST": "BREAST",
    "HEADNECK": "HEAD", "TOES": "TOE", "LEG": "LEG", "RIGHT HAND": "HAND", "Femur li": "FEMUR", "HIPJOINT": "HIP", "EARL": "EAR",
    "KNIE": "KNEE", "GENOU": "KNEE", "SCHÄDEL": "HEAD", "CRÂNE": "HEAD", "HÜFTE": "HIP", "LWS": "SPINE", "MANO": "HAND", "FUß": "FOOT",
    "ABDOMINAL": "ABDOMEN", "Handgelenk li": "WRIST", "ABDPELVIS": "ABD",
}  # fmt: skip


@pytest.mark.parametrize(
    "part", [*CHESTS, "", "PORTABLE", "PA", "ERECT", "UNKNOWN", "SUPINE", "DOE^SECRET", "HANDHELD", "HEADER", "EARLY", "LEGACY", "TEST"]
)
def test_chests_and_unknown_body_parts_are_read(dicom_file, drawn, part):
    path = dicom_file(drawn, BodyPartExamined=part)
    assert code_of(path) is None
    assert read_facts(path.read_bytes())["body_part"] == ("CHEST" if part in CHESTS else "other" if part else "")


@pytest.mark.parametrize("part", list(OTHERS))
def test_other_body_parts(dicom_file, drawn, part):
    path = dicom_file(drawn, BodyPartExamined=as_written(part))
    assert code_of(path) == "examination"
    assert code_of(path, other_examinations=True) is None
    assert code_of(dicom_file(drawn, BodyPartExamined=as_written(part), ViewPosition="LL")) == "examination"
    assert read_facts(path.read_bytes())["body_part"][:3] == OTHERS[part][:3]


def test_anatomic_regions_by_code(dicom_file, drawn):
    for collection in (codes.cid4009, codes.cid4031):
        for region in collection.concepts.values():
            words = ("chest", "lung", "heart", "mediast", "bronch", "trachea", "rib", "body", "thora")
            chest = any(word in region.meaning.lower() for word in words) and "spine" not in region.meaning.lower()
            path = dicom_file(drawn, AnatomicRegionSequence=[coded(region.value, "SCT", "Region")])
            assert (code_of(path) is None) == chest, region.meaning
    assert code_of(dicom_file(drawn, AnatomicRegionSequence=[coded("T-D8700", "SRT", "Hand")])) == "examination"
    assert code_of(dicom_file(drawn, AnatomicRegionSequence=[coded("T-D3000", "SRT", "Chest")])) is None
    assert code_of(dicom_file(drawn, AnatomicRegionSequence=[coded("T-D3000", "SRT", "")], BodyPartExamined="HAND")) is None


def test_decoding_tells_what_the_default_would_refuse(dicom_file, drawn):
    every = ReadOptions(lateral=True, other_examinations=True)
    for attributes, refusal in (({}, None), ({"ViewPosition": "LL"}, "lateral"), ({"Modality": "CT"}, "examination")):
        data = dicom_file(drawn, **attributes).read_bytes()
        assert decode(data, every).refusal == refusal
        assert read_facts(data)["refusal"] == (refusal or "")


def test_damaged_values_are_unreadable(dicom_file, drawn):
    path = dicom_file(drawn)
    dataset = pydicom.dcmread(path)
    dataset.add_new("ViewCodeSequence", "LO", "DOE^SECRET")
    dataset.save_as(path)
    assert code_of(path) in (None, "unreadable")
