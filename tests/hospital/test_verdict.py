"""The conclusion for sites that are better, worse, too small or undecided."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd
import pytest

from sga_monai.hospital.verdict import give_verdict, planning_half_width


def report(value: float, half: float, internal: float = 0.9, patients: int = 500, **changes) -> dict:
    """A report whose AUROC is known to ``half`` on either side, and so is the difference from the internal one."""
    drop = {"value": value - internal, "low": value - internal - half, "high": value - internal + half}
    figures = {
        "auroc": {"value": value, "low": value - half, "high": value + half},
        "internal": {"auroc": internal, "n_positive": 100, "n_negative": 100, "n_patients": 200},
        "auroc_difference": drop,
        "operating_point": None,
    }
    near = {"value": 0.5, "low": 0.45, "high": 0.55}
    base = {
        "models": {"model": figures},
        "cohort": {"patients": 2 * patients, "positive_patients": patients, "negative_patients": patients, "prevalence": 0.4},
        "failures": {"reportable": True},
        "shortcut_audit": {"lungs_blank": None, "center_blank": near, "metadata_only": near},
        "drift": [{"flag": False}],
        "prevalence": 0.1,
    }
    return base | changes


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        (report(0.70, 0.04), "worse", "significantly lower than the internal one: 0.70 against 0.90."),
        # The margin is asked first: so many patients show a drop that is too small to matter.
        (report(0.893, 0.005), "holds", "significantly lower than the internal one, but by less than 0.05: 0.89 against 0.90."),
        (report(0.86, 0.015), "worse", "significantly lower than the internal one: 0.86 against 0.90."),
        (report(0.90, 0.04), "holds", "A drop of 0.05 or more from the internal AUROC is excluded: 0.90 against 0.90."),
        (report(0.87, 0.045), "inconclusive", "The site's AUROC is not significantly different from the internal one."),
        (report(0.90, 0.06), "inconclusive", "for a conclusion: the AUROC is known only to within +/- 0.06 (0.05 or less is needed). The"),
        (
            report(0.90, 0.0504),
            "inconclusive",
            "for a conclusion: the AUROC is known only to within +/- 0.0504 (0.05 or less is needed). The",
        ),
        (report(0.90, 0.01, patients=99), "inconclusive", "for a conclusion: 99 positive patients (at least 100 are needed). The"),
        (
            report(0.90, 0.06, patients=99),
            "inconclusive",
            "99 positive patients (at least 100 are needed) and the AUROC is known only to within +/- 0.06",
        ),
        (report(0.90, float("nan")), "inconclusive", "for a conclusion: the AUROC's interval cannot be estimated. The"),
        (report(0.70, 0.04, failures={"reportable": False}), "not reportable", "Too many images failed"),
    ],
)
def test_code_and_text(given, code, text):
    verdict = give_verdict(given)
    assert verdict["code"] == code
    assert text in verdict["text"]
    assert verdict["notes"] == []


def test_an_auroc_below_a_half_asks_whether_labels_are_exchanged():
    assert any("are the labels swapped" in note for note in give_verdict(report(0.23, 0.1))["notes"])
    # An AUROC of 0 has no interval and is the strongest sign of all.
    assert any("are the labels swapped" in note for note in give_verdict(report(0.0, float("nan")))["notes"])
    assert not any("are the labels swapped" in note for note in give_verdict(report(0.45, 0.1))["notes"])


def test_notes():
    high = {"value": 0.9, "low": 0.8, "high": 0.95}
    reverse = {"value": 0.0, "low": float("nan"), "high": float("nan")}
    audit = {"lungs_blank": reverse, "center_blank": None, "metadata_only": high}
    notes = give_verdict(report(0.9, 0.04, shortcut_audit=audit, drift=[{"flag": True}], prevalence=None))["notes"]
    assert [note.split(":")[0] for note in notes[:2]] == ["Shortcut suspected", "Confounded cohort"]
    assert len(notes) == 4
    # The words are the heading of the report's section.
    assert notes[2] == 'The images differ from the internal ones: see "Are the images like the internal ones?".'
    template = files("sga_monai") / "hospital/templates/report_methods.html.jinja"
    assert "<h3>Are the images like the internal ones?</h3>" in template.read_text(encoding="utf-8")
    assert notes[3] == "PPV, NPV and net benefit are at the cohort's prevalence, 0.400, not at a clinical one."
    # Nine patients of a class are too few to suspect a shortcut.
    notes = give_verdict(report(0.9, 0.04, patients=9, shortcut_audit=audit))["notes"]
    assert not any("Shortcut" in note for note in notes)


def test_a_few_lung_masks_neither_make_a_shortcut_nor_hide_one():
    near, high, reverse = ({"value": v, "low": v - 0.05, "high": v + 0.05} for v in (0.5, 0.9, 0.1))
    perfect = {"value": 1.0, "low": float("nan"), "high": float("nan")}
    few, enough = {"positive_patients": 9, "negative_patients": 40}, {"positive_patients": 10, "negative_patients": 10}
    for lungs, center, suspected in (
        (perfect | few, near, None), (near | few, high, "0.90"), (None, high, "0.90"), (None, near, None),
        (perfect | enough, near, "1.00"), (near | enough, high, None), (reverse | enough, near, "0.10"),
        # Reports of before do not count them.
        (high, near, "0.90"),
    ):  # fmt: skip
        audit = {"lungs_blank": lungs, "center_blank": center | {"positive_patients": 500, "negative_patients": 500}}
        notes = give_verdict(report(0.9, 0.04, shortcut_audit=audit | {"metadata_only": near}))["notes"]
        expected = (
            [] if suspected is None else [f"Shortcut suspected: with the lungs blanked the AUROC is {suspected}; about 0.5 is expected."]
        )
        assert notes == expected


def test_the_precision_to_expect_is_of_the_cohorts_positives_and_negatives():
    # 25 positives and 75 negatives; the other way round it would be 0.089.
    assert planning_half_width(pd.Series({"n_positive": 25, "n_negative": 75})) == pytest.approx(0.1114, abs=5e-5)
    for positive, negative in ((0, 75), (25, 0)):
        assert planning_half_width(pd.Series({"n_positive": positive, "n_negative": negative})) is None
