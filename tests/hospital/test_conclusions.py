"""Three answers and what to do, for sites that hold, are worse, or are too small; a protocol's limits come first."""

from __future__ import annotations

import pytest

from sga_monai.hospital.conclusions import draw_conclusions


def estimate(value: float, half: float = 0.03) -> dict:
    return {"value": value, "low": value - half, "high": value + half}


def report(
    auroc=0.9, half=0.03, sensitivity=0.85, specificity=0.8, ratio=1.0, slope=1.0, patients=400, rates=0.03, inside=0.03, **changes
) -> dict:
    """A site whose model has an AUROC of 0.9, a sensitivity of 0.85 and a specificity of 0.8 inside."""
    internal = {"auroc": 0.9, "n_positive": 300, "n_negative": 300, "n_patients": 600}
    internal |= {"sensitivity": estimate(0.85, inside), "specificity": estimate(0.8, inside)}
    model = {
        "auroc": estimate(auroc, half),
        "internal": internal,
        "auroc_difference": estimate(auroc - 0.9, half),
        "operating_point": {"sensitivity": estimate(sensitivity, rates), "specificity": estimate(specificity, rates)},
        "calibration": {"slope": estimate(slope, 0.1)},
        "calibration_curve": {"observed_to_expected": estimate(ratio, 0.1)},
    }
    near = estimate(0.5, 0.05)
    base = {
        "models": {"model": model},
        "cohort": {"patients": 2 * patients, "positive_patients": patients, "negative_patients": patients, "prevalence": 0.5},
        "failures": {"reportable": True},
        "shortcut_audit": {"lungs_blank": None, "center_blank": near, "metadata_only": near},
        "drift": [],
        "prevalence": 0.1,
        "protocol": {},
    }
    return base | changes


def codes(given: dict) -> list[str]:
    return [line["code"] for line in draw_conclusions(given)["conclusions"]]


@pytest.mark.parametrize(
    ("given", "found", "advice"),
    [
        (report(), ["holds", "holds", "holds"], "Nothing here argues against the next step"),
        (report(auroc=0.7, sensitivity=0.6), ["worse", "worse", "holds"], "Do not use the model here as it is."),
        (report(sensitivity=0.7, specificity=0.95), ["holds", "shifted", "holds"], "Do not use the locked threshold as it is"),
        (report(sensitivity=0.95, specificity=0.6), ["holds", "shifted", "holds"], "Do not use the locked threshold as it is"),
        (report(specificity=0.6), ["holds", "worse", "holds"], "Do not use the locked threshold as it is"),
        (report(ratio=0.5), ["holds", "holds", "off"], "Do not take the probabilities at face value"),
        (report(slope=0.5), ["holds", "holds", "off"], "Do not take the probabilities at face value"),
        (report(slope=1.45), ["holds", "holds", "off"], "Do not take the probabilities at face value"),
        (report(ratio=0.85, slope=0.7), ["holds", "holds", "off"], "Do not take the probabilities at face value"),
        (report(slope=0.82), ["holds", "holds", "holds"], "Nothing here"),
        (report(ratio=1.45), ["holds", "holds", "off"], "Do not take"),
        (report(sensitivity=0.82, rates=0.08), ["holds", "inconclusive", "holds"], "Nothing here argues against"),
        # Drops that are significant and too small to matter, and one that may matter.
        (report(auroc=0.893, half=0.005), ["holds", "holds", "holds"], "Nothing here argues against the next step"),
        (report(sensitivity=0.8, specificity=0.76, rates=0.01, inside=0.01), ["holds", "holds", "holds"], "Nothing here argues against"),
        (report(sensitivity=0.8, specificity=0.9, rates=0.01, inside=0.01), ["holds", "holds", "holds"], "Nothing here argues against"),
        (report(sensitivity=0.77, rates=0.02, inside=0.01), ["holds", "worse", "holds"], "Do not use the locked threshold as it is"),
        (report(sensitivity=0.83, specificity=0.6, rates=0.01, inside=0.01), ["holds", "worse", "holds"], "Do not use the locked"),
        (report(half=0.1), ["inconclusive", "holds", "holds"], "Do not decide yet: about 3200 patients are needed in total (800 so far)"),
        (report(patients=40), ["inconclusive", "holds", "holds"], "Do not decide yet: about 200 patients are needed in total (80 so far)"),
        (report(failures={"reportable": False}), ["not reportable"] * 3, "Correct the images that failed"),
    ],
)
def test_codes_and_the_first_advice(given, found, advice):
    assert codes(given) == found
    assert draw_conclusions(given)["advice"][0].startswith(advice)


def test_texts_say_in_which_direction():
    texts = {
        "Its operating point has shifted here: it misses more diseased patients and raises fewer false alarms.": report(
            sensitivity=0.7, specificity=0.95
        ),
        "Its operating point has shifted here: it misses fewer diseased patients and raises more false alarms.": report(
            sensitivity=0.95, specificity=0.6
        ),
        "It misses more diseased patients than on the developers' test set.": report(sensitivity=0.6),
        "It raises more false alarms than on the developers' test set.": report(sensitivity=0.83, specificity=0.6, rates=0.01, inside=0.01),
        "It detects disease and clears healthy patients nearly as well as on the developers' test set.": report(
            sensitivity=0.8, rates=0.01, inside=0.01
        ),
        "It ranks diseased patients above healthy ones nearly as well as on the developers' test set.": report(auroc=0.893, half=0.005),
        "They are too high at this site.": report(ratio=0.5),
        "They are too low at this site.": report(ratio=1.5),
        "They are too extreme at this site.": report(slope=0.5),
        "They are too moderate at this site.": report(slope=1.5),
    }
    for text, given in texts.items():
        assert text in [line["text"] for line in draw_conclusions(given)["conclusions"]]


def test_limits_of_a_protocol_answer_their_own_question():
    limit = {"measure": "sensitivity", "relation": ">=", "limit": 0.9} | estimate(0.85)
    given = report(protocol={"limits": [limit | {"outcome": "not met"}], "status": "before"})
    assert codes(given) == ["holds", "not met", "holds"]
    assert "sensitivity at least 0.9: 0.85 [0.82, 0.88]" in draw_conclusions(given)["conclusions"][1]["reason"]
    given["protocol"]["limits"] = [limit | {"outcome": "undecided"}, limit | {"measure": "slope", "outcome": "met"}]
    assert codes(given) == ["holds", "inconclusive", "met"]


def test_the_advice_is_not_to_decide_while_a_limit_of_the_protocol_is_open():
    limit = {"measure": "sensitivity", "relation": ">=", "limit": 0.9} | estimate(0.9)
    given = report(
        protocol={"limits": [limit | {"outcome": "undecided"}, limit | {"measure": "npv", "outcome": "undecided"}], "status": "before"}
    )
    assert draw_conclusions(given)["advice"] == ["Do not decide yet: more patients would narrow the intervals of sensitivity and NPV."]
    given["protocol"]["limits"] = [limit | dict.fromkeys(("value", "low", "high")) | {"measure": "ppv", "outcome": "not estimable"}]
    assert draw_conclusions(given)["advice"][0].endswith(
        "PPV, for which the protocol has a limit, cannot be estimated with these patients."
    )
    # The protocol decides, and says nothing of ranking; without it nothing says what would be enough.
    given["protocol"]["limits"] = [limit | {"outcome": "met"}]
    given["models"]["model"]["internal"] = None
    assert draw_conclusions(given)["advice"][0].startswith("Nothing here argues against")


@pytest.mark.parametrize(
    ("measure", "part", "why"),
    [
        ("specificity", "operating_point", "since no threshold was given (--threshold, or in the protocol)"),
        ("slope", "calibration", "since the model gives no probabilities"),
        ("auroc_difference", "internal", "since the internal AUROC is not known"),
    ],
)
def test_why_a_limit_cannot_be_judged(measure, part, why):
    limit = {"measure": measure, "relation": ">=", "limit": 0.0, "outcome": "not estimable"} | dict.fromkeys(("value", "low", "high"))
    given = report(protocol={"limits": [limit], "status": "before"})
    for name in ("operating_point", "calibration", "internal"):
        model = given["models"]["model"] | {name: None}
        (advice,) = draw_conclusions(given | {"models": {"model": model}})["advice"][:1]
        assert advice.endswith(f"cannot be estimated {why if name == part else 'with these patients'}."), (measure, name)


def test_what_is_not_settled_is_said_beside_the_next_step():
    given = report(sensitivity=0.82, rates=0.08)
    unsettled = "These data do not settle whether {} will hold up here; that study should."
    assert draw_conclusions(given)["advice"][1:] == [unsettled.format("the threshold")]
    given["models"]["model"]["calibration"] = {"slope": estimate(1.0, 0.6)}
    assert codes(given) == ["holds", "inconclusive", "inconclusive"]
    assert draw_conclusions(given)["advice"][1:] == [unsettled.format("the threshold and the probabilities")]
    given = report()
    given["models"]["model"]["calibration_curve"] = None
    assert codes(given) == ["holds", "holds", "inconclusive"]
    assert draw_conclusions(given)["conclusions"][2]["reason"] == "There are too few patients to assess calibration."
    given["models"]["model"]["internal"] = {"auroc": 0.9}
    assert codes(given)[1] == "no criterion"


def test_a_perfect_ranking_is_judged():
    nan = dict.fromkeys(("low", "high"), float("nan"))
    given = report(patients=100)
    given["models"]["model"] |= {"auroc": {"value": 1.0, **nan}, "auroc_difference": {"value": 0.1, **nan}}
    given["models"]["model"]["internal"]["variance"] = 1e-4
    found = draw_conclusions(given)["conclusions"][0]
    assert (found["code"], found["reason"].split(". ")[0]) == ("holds", "AUROC 1.00 [0.96, 1.00]")
    # 0.025^(1/20) is 0.83: known to 0.084, and 35 pairs of patients would know it to 0.05.
    given["cohort"] |= {"patients": 220, "positive_patients": 200, "negative_patients": 20}
    assert draw_conclusions(given)["advice"][0].startswith("Do not decide yet: about 380 patients are needed in total (220 so far)")


def test_a_shortcut_comes_before_everything():
    audit = {"lungs_blank": None, "center_blank": estimate(0.9), "metadata_only": estimate(0.5)}
    assert draw_conclusions(report(shortcut_audit=audit))["advice"][0].startswith("Find out what the model reads outside the lungs")


def test_what_is_absent_is_said_and_does_not_count():
    given = report()
    given["models"]["model"] |= {"operating_point": None, "calibration": None, "calibration_curve": None, "internal": None}
    assert codes(given) == ["no criterion", "absent", "absent"]
    assert draw_conclusions(given)["advice"] == [
        "Write down what would be good enough (sga-monai protocol), then evaluate again on patients seen after that."
    ]
    nan = dict.fromkeys(("value", "low", "high"), float("nan"))
    given = report(patients=0)
    given["models"]["model"] |= {"auroc": nan, "auroc_difference": nan}
    given["models"]["model"]["operating_point"] = {"sensitivity": nan, "specificity": estimate(0.8)}
    assert codes(given)[:2] == ["inconclusive", "inconclusive"]
    assert "no diseased patients" in draw_conclusions(given)["advice"][0]
