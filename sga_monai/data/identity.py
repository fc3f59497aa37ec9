"""When two ids are one: however they were typed; and ids that a spreadsheet or a program has damaged."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from sga_monai.core.errors import first_of

MONTH = "(jan|feb|mar|mrz|mär|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-z]*"
# Invisible characters that Unicode does not call format characters: joiners, fillers, variation selectors.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u3164\ufe00-\ufe0f\uffa0]")
# What spreadsheets and programs make of an id, by the pattern that a warning names.
DAMAGED = {
    "a number in powers of ten, as 1.23E+05": re.compile(r"[+-]?\d+([.,]\d+)?e[+-]\d{2,3}"),
    "a number with decimals, as 12345.0": re.compile(r"\d+[.,]0+"),
    "a number rounded to 15 digits": re.compile(r"\d{15}0{2,}"),
    "an empty value, as nan or None": re.compile(r"nan|<na>|n/?a|#n/?a|none|null|nil|nat|-+|\?+|undefined|true|false"),
    "a spreadsheet's error, as #REF!": re.compile(r"#+|#[\w/.\u00a1\u00bf-]+[!?]|#(nv|n/[avd]|ref|name|value|div/0|num|null)"),
    "a date, as 1-Mar or 2021-03-01": re.compile(
        rf"\d{{1,2}}[-. ]+{MONTH}([-. ](\d\d){{1,2}})?|{MONTH}[-. ](\d\d){{1,2}}"
        r"|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}-\d{2}-\d{2}([ t]00:00:00)?"
    ),
    "a placeholder, as anonymous or unknown": re.compile(r"anon(ymous|ymized|ymised|ym)?|unknown|unbekannt|unk|dummy|00+|xx+"),
}


def same_id(text: str) -> str:
    """An id by which it is compared.

    Compatibility forms (NFKC), invisible characters, kinds of digit and of dash, case, spaces around and the number of spaces
    inside do not count.

    Example:
        >>> same_id("\uff2d\uff32\uff2e\u200b\u201112 ") == same_id("mrn-12")
        True
    """
    if text.isascii():
        return " ".join(text.casefold().split()) if " " in text or "\t" in text else text.strip().casefold()
    text = "".join(map(_plain_character, unicodedata.normalize("NFKC", INVISIBLE.sub("", text))))
    return " ".join(unicodedata.normalize("NFKC", text.casefold()).split())


def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    return "" if category == "Cf" else "-" if category == "Pd" or character == "\u2212" else character


def same_name(text: str) -> str:
    r"""A file's path by which it is compared: composed characters (NFC), ``/`` between folders, no ``./`` in front.

    Example:
        >>> same_name(r".\a\1.dcm")
        'a/1.dcm'
    """
    parts = [part for part in unicodedata.normalize("NFC", text.strip()).replace("\\", "/").split("/") if part not in ("", ".")]
    return "/".join(parts)


def damaged_ids(ids: Iterable[tuple[int, str]], column: str) -> list[str]:
    """One sentence for each pattern of ``DAMAGED`` that ids show, and for ids alike but for leading zeros; ids are not quoted.

    Args:
        ids: number of the row and the id.
        column: name of the column, for the sentences.
    """
    rows: dict[str, list[int]] = {}
    known: dict[str, str | None] = {}
    for number, text in ids:
        if text not in known:
            value = same_id(text)
            plain = not value or (value.isdigit() and len(value) < 16 and value.strip("0"))
            known[text] = None if plain else next((name for name, pattern in DAMAGED.items() if pattern.fullmatch(value)), None)
        name = known[text]
        if name is not None:
            rows.setdefault(name, []).append(number)
    sentences = []
    for name, numbers in rows.items():
        listed = first_of(numbers)
        sentences.append(f"{column} looks like {name}, in {len(numbers)} rows (row {listed}); different patients may have become one")
    # As they are compared everywhere: 0A12 is like a12.
    same = {same_id(text) for text in known}
    alike = len(same) - len({text.lstrip("0") or text for text in same})
    if alike:
        sentences.append(f"{alike} {column} are like others but for leading zeros, which spreadsheets drop; one patient may be two")
    return sentences
