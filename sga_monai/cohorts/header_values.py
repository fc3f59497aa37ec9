"""Ages, sexes and dates as scanners, archives and people write them; what is no possible value is ``None`` or empty."""

from __future__ import annotations

import re
from datetime import date, timedelta

from sga_monai.data.manifest import OLDEST

# Computed radiography came to hospitals in the 1980s; what is earlier is a default of a program (1900, 1970, 1980-01-01).
FIRST_DAY = date(1980, 1, 2)
DAYS = {"H": 1 / 24, "D": 1.0, "W": 7.0, "M": 30.4375, "J": 365.25, "A": 365.25, "Y": 365.25}
# Of German and French the words for years alone, since their months and weeks have other letters.
AGE = re.compile(r"(\d{1,4}(?:\.\d+)?)\s*(HRS?|HOURS?|H|D|W|M|Y|DAYS?|WE?E?KS?|MONTHS?|MOS?|YEARS?|YRS?|Y[/.]?O\.?|J|JAHRE?|ANS?)?")
# Year first with any separator or none; day first with dots alone, since slashes are read both ways.
# A time may follow, without separators as in a DICOM DT; another day, as in a range, may not.
YEAR_FIRST = re.compile(r"(\d{4})([-./])?(\d{1,2})(?(2)\2)(\d{1,2})(?:[T ]\d[\d:.+-]*|(?(2)(?!)|\d{2,6}(?:\.\d{1,6})?(?:[+-]\d{4})?))?")
DAY_FIRST = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})")
SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "W": "F", "O": "O", "OTHER": "O"}


def parse_sex(text: str) -> str:
    """M, F or O; empty for anything else.

    Example:
        >>> parse_sex(" f"), parse_sex("Male"), parse_sex("000")
        ('F', 'M', '')
    """
    return SEXES.get(text.strip().upper(), "")


def parse_date(text: str) -> date | None:
    """A day of the calendar: 20210302, 2021-03-02, 2021.03.02 (DICOM before 1993), 02.03.2021.

    Example:
        >>> parse_date("2021.03.02") == parse_date("20210302") == date(2021, 3, 2)
        True
    """
    text = text.strip()
    first, last = YEAR_FIRST.fullmatch(text), DAY_FIRST.fullmatch(text)
    if first and (first[2] or re.match(r"\d{8}", text)):
        numbers = first[1], first[3], first[4]
    elif last:
        numbers = last[3], last[2], last[1]
    else:
        return None
    try:
        return date(*map(int, numbers))
    except ValueError:
        return None


def is_possible(day: date) -> bool:
    """Whether a radiograph can be of this day: dummy dates, which anonymizers put in, and the future are not."""
    return FIRST_DAY <= day <= date.today() + timedelta(days=1)


def parse_age(text: str) -> float | None:
    """Years of a PatientAge (067Y, 006M, 045); ``None`` for zero, a common default, and for what nobody reaches.

    Example:
        >>> parse_age("006M"), parse_age("045"), parse_age("000Y")
        (0.5, 45.0, None)
    """
    match = AGE.fullmatch(text.strip().upper())
    if not match:
        return None
    years = float(match[1]) * DAYS[(match[2] or "Y")[0]] / DAYS["Y"]
    return years if 0 < years <= OLDEST else None


def age_from_dates(birth: date | None, study: date | None) -> float | None:
    """Completed years; ``None`` where a date is missing, or they do not fit each other."""
    if birth is None or study is None:
        return None
    years = study.year - birth.year - ((study.month, study.day) < (birth.month, birth.day))
    return float(years) if 0 <= years <= OLDEST and birth != date(1900, 1, 1) else None
