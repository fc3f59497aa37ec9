"""Text that may go from a header or a table to a report and out of a site: one alphabet, from the first step on."""

from __future__ import annotations

import re
import unicodedata

# What release.json may hold (JSON schema pattern); whatever comes earlier is put into it by ``plain_text``.
ALPHABET = "^[A-Za-z0-9 _.+/()-]{1,64}$"
ALPHABET_IN_WORDS = "letters A to Z, digits, space and _ . + / ( ) -"
LONGEST = 64
# German and Nordic letters as they are spelled out, letters that have no decomposition, and signs with a near relative.
SPELLED = str.maketrans(
    {
        "ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "Ae", "ø": "oe", "Ø": "Oe",
        "œ": "oe", "Œ": "Oe", "ð": "d", "Ð": "D", "đ": "d", "Đ": "D", "þ": "th", "Þ": "Th", "ł": "l", "Ł": "L", "ı": "i", "&": "+",
        "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "−": "-", "[": "(", "]": ")", "{": "(", "}": ")", "\\": "/",
        # Dropped without a space in their place.
        "'": "", "’": "", "‘": "", "`": "", "´": "", '"': "", "“": "", "”": "", "„": "", "®": "", "™": "", "©": "",
    }
)  # fmt: skip


def is_plain(text: str) -> bool:
    """Whether ``text`` is empty or may leave a site as it is."""
    return not text or (re.fullmatch(ALPHABET, text) is not None and plain_text(text) == text)


def plain_text(text: str) -> str:
    """``text`` in the alphabet of a release: umlauts spelled out, accents and commas dropped, 64 characters at most.

    Returns:
        Empty where no letter or digit is left, as with a name in another script.

    Example:
        >>> plain_text("Example, Inc."), plain_text("Klinikum München"), plain_text("Lungenödem")
        ('Example Inc.', 'Klinikum Muenchen', 'Lungenoedem')
    """
    if text.isascii() and text.isalnum() and len(text) <= LONGEST:
        return text
    # Composed first, so that an umlaut is one character however it was typed; then decomposed, to lose other accents.
    spelled = unicodedata.normalize("NFC", text).translate(SPELLED)
    letters = (c for c in unicodedata.normalize("NFKD", spelled) if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    kept = re.sub(r"[^A-Za-z0-9_.+/()-]+", " ", "".join(letters))
    # What begins like a formula would be refused by every table that is written.
    kept = kept.strip().lstrip("+- ")[:LONGEST].rstrip()
    return kept if any(c.isalnum() for c in kept) else ""
