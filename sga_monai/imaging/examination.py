"""What a DICOM header says was examined (modality, body part, view), and whether that is a frontal chest radiograph."""

from __future__ import annotations

import contextlib
import functools
import re
import unicodedata

import pydicom

from sga_monai.imaging.geometry import orientation_of
from sga_monai.imaging.limits import refused_as

# Computed and digital radiography, radiographic film, and what secondary captures and film digitizers write.
RADIOGRAPHY = ("CR", "DX", "DR", "XR", "RG", "OT", "SC", "HC", "FD")
# PS3.3 C.7.3.1.1.1, retired terms included: every other modality.
OTHER_MODALITIES = frozenset(
    "ANN AR AS ASMT AU BDUS BI BMD CD CF CFM CP CS CT CTPROTOCOL DD DF DG DM DMS DOC DS EC ECG EEG EMG EOG EPS ES FA FID FS GM "
    "HD IO IOL IVOCT IVUS KER KO LEN LP LS MA MG MR MS M3D NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS PA PLAN POS PR PT PX "
    "REG RESP RF RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP TG US "
    "VA VF XA XAPROTOCOL XC".split()
)
# The modalities of the other image storage classes (PS3.4 B.5), for files that say none.
STORAGE = "1.2.840.10008.5.1.4.1.1."
STORAGE_MODALITIES = {
    "1.2.": "MG", "1.3.": "IO", "2.": "CT", "3.": "US", "4.": "MR", "5.": "NM", "6.": "US", "12.1.": "XA", "12.2.": "RF", "12.3.": "XA",
    "13.1.1.": "XA", "13.1.2.": "CT", "13.1.": "MG", "14.": "IVOCT", "20.": "NM", "77.": "XC", "128.": "PT", "130.": "PT",
    "481.": "RTIMAGE",
}  # fmt: skip
CHEST = re.compile(r"CHEST|THORA|TORAX|TORSO|LUNG|PULMO|MEDIAST|BRONCH|TRACHEA|HEART|CARDIAC|CXR|\bRIBS?\b|BODY|TRUNK|BABYGRAM")
SPINE = re.compile(r"SPINE|VERTEBR")
# PS3.16 Annex L and CID 4009, and the short forms in use: the body parts that are not the chest.
OTHER_PARTS = (
    "ABDOMEN ABD ACETABULUM ACROMIOCLAVICULAR ADRENAL ANKLE ANUS ARM AUDITORY AXILLA BILE BILIARY BLADDER BONE BRAIN BREAST BUTTOCK "
    "CALCANEUS CALF CAROTID CEREBELLUM CERVICAL CERVIX CHEEK CLAVICLE COCCYX COLON CRANIUM DENTAL DUODENUM EAR ELBOW ESOPHAGUS "
    "EXTREMITY EYE FACE FACIAL FEMUR FIBULA FINGER FOOT FEET FOREARM GALLBLADDER GLUTEUS HAND HEAD HEEL HIP HUMERUS IAC ILEUM ILIUM "
    "INTESTINE JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIMB LIVER LUMBAR MANDIBLE MASTOID MAXILLA METACARPUS METATARSUS MOUTH NASAL NECK "
    "NOSE OPTIC ORBIT OVARY PANCREA PARANASAL PAROTID PATELLA PELVIS PENIS PHANTOM PHARYNX PROSTATE RADIUS RECTUM SACRUM SACROILIAC "
    "SCALP SCAPULA SCROTUM SELLA SHOULDER SINUS SKULL SPLEEN STERNUM STERNOCLAVICULAR STOMACH SUBMANDIBULAR TARSAL TEETH "
    "TEMPOROMANDIBULAR TESTIS THIGH THUMB THYROID TIBIA TMJ TOE TONGUE TOOTH ULNA URETER URETHRA URINARY UTERUS VAGINA VULVA WRIST "
    "ZYGOMA"
).split()
# What devices set to German, French, Spanish or Italian write.
FOREIGN_PARTS = {
    "HEAD": "KOPF SCHADEL SCHAEDEL CRANE CRANEO CRANIO TESTA CABEZA TETE NNH OPG", "SPINE": "COLUMNA COLONNA RACHIS HWS BWS LWS WIRBELS",
    "HAND": "MANO MAIN MAINS", "KNEE": "KNIE GENOU RODILLA GINOCCHIO", "PELVIS": "BECKEN BASSIN BACINO",
    "SHOULDER": "SCHULTER EPAULE HOMBRO SPALLA", "FOOT": "FUSS PIED PIEDS PIE PIEDE PIEDI", "HIP": "HUFTE HUEFTE HANCHE CADERA ANCA",
    "ELBOW": "ELLENBOGEN ELLBOGEN COUDE CODO GOMITO", "WRIST": "HANDGELENK POIGNET MUNECA POLSO",
    "ANKLE": "SPRUNGGELENK CHEVILLE TOBILLO CAVIGLIA",
    "ABDOMEN": "BAUCH VENTRE ADDOME ABDOMINAL KUB", "BREAST": "MAMMA MAMA",
}  # fmt: skip
TRANSLATED = {word: part for part, words in FOREIGN_PARTS.items() for word in words.split()}
NO_PARTS = ("HANDHELD", "HEADER", "TEST")
# What may be joined to the name of a part: a plural, a joint, a side, a view.
JOINED = re.compile(r"(?:E?S)?(?:JOINTS?)?(?:L|R|LT|RT|LI|RE|LEFT|RIGHT|LINKS|RECHTS)?(?:AP|PA|LAT|OBL|XR)?")
FRONTAL_VIEWS = ("PA", "AP", "FRONTAL")
# PS3.3 C.8.7.10.1.2 and what writers put there; LLD and RLD are decubitus views.
LATERAL_VIEWS = ("LL", "RL", "LLD", "RLD", "LLO", "RLO", "L", "LAT", "LATERAL")
OBLIQUE_VIEWS = ("LAO", "RAO", "LPO", "RPO", "OBLIQUE")
LATERAL_WORD = re.compile(
    r"LL|RL|LLD|RLD|LLO|RLO|XTL|HBL|(?:[LRXHW]|LT|RT|LF|LEFT|RIGHT|XT|XTABLE|CROSSTABLE|TABLE|TRANS|CHEST|THORAX|CXR|BEAM|HORIZBEAM)?"
    r"LAT(?:[LR]|LT|RT|LEFT|RIGHT|XR|VIEW|UP\w*|ERECT|ST\w*|DEC\w*|ERAL\w*|ERO\w*)?|(?:[LR]{1,2}|LT|RT)?DE[CK]UB\w*|LLDEC|RLDEC|SAG|SAGIT\w*"
    r"|PROF|PROFIL\w*|PERFIL\w*|SEITL\w*|SEITENA\w*|ZIJ\w*|BOCZN\w*|BOCN\w*|BOK\w*|БОК\w*|ЛАТЕР\w*|\w*[侧側]\w*|\w*측면\w*"
)
FROM_SIDE_TO_SIDE = re.compile(r"(?:L|LEFT)\W+(?:TO\W+)?(?:R|RIGHT)|(?:R|RIGHT)\W+(?:TO\W+)?(?:L|LEFT)")
OBLIQUE_WORD = re.compile(r"(?:[LR]|LT|RT|LEFT|RIGHT|[LR]?AP|[LR]?PA)?OBL\w*|[LR][AP]O")
# CID 4010 has views of the skull, the foot and the breast as well.
OTHER_VIEWS = re.compile(r"MENTO|MENTAL|PARIETO|ORBITO|PLANT|DORSO|ACANTHIO|OCCLUSAL|CRANIO-CAUDAL|CAUDO-CRANIAL|SPECIMEN")


def refusal(dataset: pydicom.Dataset) -> str | None:
    """The reason code for which the examination is no frontal chest radiograph, or ``None``.

    "examination" by Modality (or, where it says nothing, the storage class), BodyPartExamined or AnatomicRegionSequence;
    "lateral", which stands for oblique views too, by ViewPosition, ViewCodeSequence or PatientOrientation. One of them is
    enough; what is absent, or in no known word, says nothing. SeriesDescription and StudyDescription are not asked: they are
    free text about a whole study, in which "CHEST PA AND LAT" names the frontal view too.

    Raises:
        ReadError: "unreadable", when one of these elements cannot be parsed.
    """
    # A value is parsed when it is asked for.
    with refused_as("unreadable"):
        if modality_of(dataset) in OTHER_MODALITIES or body_part_of(dataset) not in ("", "CHEST", "other"):
            return "examination"
        if any(OTHER_VIEWS.search(text) for text in _coded(dataset.get("ViewCodeSequence"))):
            return "examination"
        if view_of(dataset) in LATERAL_VIEWS + OBLIQUE_VIEWS or orientation_of(dataset) == "lateral":
            return "lateral"
    return None


def modality_of(dataset: pydicom.Dataset) -> str:
    """A term of ``RADIOGRAPHY`` or ``OTHER_MODALITIES``, "other" for unknown words, "" when absent."""
    values = _texts(dataset.get("Modality"))
    for terms in (OTHER_MODALITIES, RADIOGRAPHY):
        for value in values:
            if value in terms:
                return value
    storage = str(dataset.get("SOPClassUID") or "").strip().removeprefix(STORAGE) + "."
    found = [modality for start, modality in STORAGE_MODALITIES.items() if storage.startswith(start)]
    return found[0] if found else "other" if values else ""


def body_part_of(dataset: pydicom.Dataset) -> str:
    """A term of ``OTHER_PARTS``, "SPINE" or "CHEST", "other" for unknown words, "" when absent.

    BodyPartExamined and AnatomicRegionSequence count alike; the chest among several parts is enough.
    """
    texts = _texts(dataset.get("BodyPartExamined")) + _coded(dataset.get("AnatomicRegionSequence"))
    parts = [_part(re.sub(r"[\W\d_]+", " ", text).strip()) for text in texts]
    return "CHEST" if "CHEST" in parts else next((part for part in parts if part != "other"), "other" if parts else "")


def _part(text: str) -> str:
    if SPINE.search(text) and "CHEST" not in text:
        return "SPINE"
    if CHEST.search(text):
        return "CHEST"
    for word in text.split():
        if word in TRANSLATED:
            return TRANSLATED[word]
        for part in OTHER_PARTS:
            # Plurals and joined words, and short forms of four letters and more.
            if len(part) > 3 and (word.startswith(part) or (len(word) >= 4 and part.startswith(word))) and word not in NO_PARTS:
                return part
            # Three letters begin other words too, as EARLY.
            rest = word.removeprefix(part)
            if len(part) == 3 and rest != word and (JOINED.fullmatch(rest) or _part(rest) != "other"):
                return part
    return "other"


def view_of(dataset: pydicom.Dataset) -> str:
    """A term of ``LATERAL_VIEWS``, ``OBLIQUE_VIEWS`` or ``FRONTAL_VIEWS``, "other" for unknown words, "" when absent.

    ViewPosition and ViewCodeSequence count alike; one that is lateral is enough.
    """
    views = [_view(text) for text in _texts(dataset.get("ViewPosition")) + _coded(dataset.get("ViewCodeSequence"))]
    for terms in (LATERAL_VIEWS, OBLIQUE_VIEWS, FRONTAL_VIEWS):
        for view in views:
            if view in terms:
                return view
    return "other" if views else ""


def _view(text: str) -> str:
    words = re.findall(r"[^\W\d_]+", text)
    if text in LATERAL_VIEWS + OBLIQUE_VIEWS + FRONTAL_VIEWS:
        return text
    # "Decubito supino" is a frontal view of a patient on the back.
    lateral = [word for word in words if LATERAL_WORD.fullmatch(word) and not (word.startswith("DECUB") and "SUPIN" in text)]
    joined = "".join(words)
    across = any(word in joined for word in ("CROSSTAB", "XTABLE", "HORIZONTALBEAM", "HORIZBEAM"))
    if lateral or FROM_SIDE_TO_SIDE.fullmatch(text) or across:
        return lateral[0] if lateral and lateral[0] in LATERAL_VIEWS else "LATERAL"
    oblique = [word for word in words if OBLIQUE_WORD.fullmatch(word)]
    if oblique:
        return oblique[0] if oblique[0] in OBLIQUE_VIEWS else "OBLIQUE"
    for view, name in (("AP", "ANTEROPOSTERIOR"), ("PA", "POSTEROANTERIOR"), ("FRONTAL", "FRONTAL")):
        if view in words or name in joined:
            return view
    return "other"


def _texts(value: object) -> list[str]:
    """The values of an element, without case, accents and outer spaces."""
    several = value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]
    return [text for text in (_unaccented(str(one)).strip("\0 ").upper() for one in several if one is not None) if text]


def _unaccented(text: str) -> str:
    if text.isascii():
        return text
    with contextlib.suppress(UnicodeError):
        # A code string has no alphabet but ASCII; what writers put there all the same is mostly UTF-8.
        text = text.encode("latin-1").decode("utf-8")
    bare = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return unicodedata.normalize("NFC", "".join(bare))


def _coded(sequence: object) -> list[str]:
    """What the codes of a sequence mean: by pydicom's dictionary where it knows them, else by their own CodeMeaning."""
    meanings = []
    for item in sequence if isinstance(sequence, pydicom.Sequence) else []:
        # A URN ends with the code: http://snomed.info/id/399067008.
        urn = re.split("[/:#]", str(item.get("URNCodeValue") or "").strip())[-1]
        value = str(item.get("CodeValue") or item.get("LongCodeValue") or urn).strip()
        scheme = str(item.get("CodingSchemeDesignator") or "").strip()
        meanings.append(_meaning(value, scheme) or item.get("CodeMeaning"))
    return _texts(meanings)


@functools.lru_cache(maxsize=256)
def _meaning(value: str, scheme: str) -> str:
    """The meaning of a code of the views and body parts of projection radiography (PS3.16 CID 4010, 4009, 4031), or "".

    SNOMED RT and CT go by several designators; a private scheme begins with 99.
    """
    # Loading pydicom's dictionary takes half a second, once.
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    code = Code(value, scheme if scheme.startswith("99") else "SCT" if value.isdigit() else "SRT", "")
    # What CID 4009 had for the chest until 2020 is no longer in it.
    known = [Code("51185008", "SCT", "Chest")]
    for group in (codes.cid4010, codes.cid4009, codes.cid4031):
        known += group.concepts.values()
    return next((one.meaning for one in known if one == code), "")
