from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sga_monai.core.errors import InputError
from sga_monai.data.duplicates import find_pairs, read_accepted, refuse_near_duplicates
from sga_monai.imaging.fingerprint import CODE_BYTES


def dataset(*rows: tuple[str, int, int]) -> SimpleNamespace:
    """Rows of (set, row, picture): the same picture has the same fingerprint."""
    data = [{"set": name, "row": row} for name, row, _ in rows]
    prints = [np.random.default_rng(picture).integers(0, 256, 2 * CODE_BYTES, dtype=np.uint8).tobytes() for _, _, picture in rows]
    return SimpleNamespace(data=data, sha256=[f"{row:064x}" for _, row, _ in rows], fingerprints=prints)


TRAIN = (("m", 2, 1), ("m", 3, 2), ("m", 4, 3), ("m", 5, 3))


def test_a_picture_of_the_training_data_in_any_test_set_is_refused():
    train = dataset(*TRAIN)
    for name in ("internal (validation)", "internal", "harbor"):
        with pytest.raises(InputError, match=r"m row 3 and \S.* row 9 \(0 of 256 bits differ\); remove one of each") as caught:
            refuse_near_duplicates([train, dataset((name, 8, 7), (name, 9, 2))])
        assert name in str(caught.value)
    refuse_near_duplicates([train, dataset(("internal", 8, 7), ("harbor", 8, 8))])
    refuse_near_duplicates([dataset(), dataset()])


def test_validation_against_test_is_refused_and_external_sets_may_share():
    with pytest.raises(InputError, match=r"internal \(validation\) row 6 and internal row 7"):
        refuse_near_duplicates([dataset(*TRAIN), dataset(("internal (validation)", 6, 9), ("internal", 7, 9))])
    refuse_near_duplicates([dataset(*TRAIN), dataset(("harbor", 6, 9), ("lakeside", 7, 9))])
    # One patient's exposures may repeat within a set.
    refuse_near_duplicates([dataset(*TRAIN), dataset(("internal", 6, 9), ("internal", 7, 9))])


def test_copies_within_a_set_do_not_hide_a_pair_between_sets():
    """More allowed pairs than are listed, all of them nearer than the leak."""
    pictures = [(picture, copy) for picture in range(200) for copy in range(60)]
    train = dataset(*(("m", 2 + i, picture) for i, (picture, _) in enumerate(pictures)))
    leaked = dataset(("harbor", 2, 500), ("harbor", 3, 199))
    code = np.frombuffer(leaked.fingerprints[1], dtype=np.uint8).copy()
    code[0] ^= 7
    leaked.fingerprints[1] = code.tobytes()
    with pytest.raises(InputError, match=r"row 11942 and harbor row 3 \(3 of 256 bits differ\); remove"):
        refuse_near_duplicates([train, leaked])
    # External sets may share any number of pictures.
    shared = dataset(*((name, 2 + i, picture) for name in ("harbor", "lakeside") for i, (picture, _) in enumerate(pictures)))
    refuse_near_duplicates([dataset(("m", 2, 900)), shared])
    with pytest.raises(InputError, match=r"m row 2 and harbor row 11942 .*; m row 2 and lakeside row 11942"):
        refuse_near_duplicates([dataset(("m", 2, 199)), shared])


def test_a_list_of_pairs_that_was_cut_says_so_and_has_every_pair_of_two_splits(tmp_path):
    prints = dataset(*(("m", 2 + i, i // 60) for i in range(12_000)), ("m", 12_002, 199)).fingerprints
    pairs, notes = find_pairs(prints, ["train"] * 12_000 + ["test"])
    assert (len(pairs), pairs[-1].first, pairs[-1].second) == (10_001, 11_940, 12_000)
    assert notes == [
        "more than 10,000 pairs within a split show the same picture, of which the first are listed; all pairs of two splits are"
    ]
    pairs, notes = find_pairs(prints[:6_000], ["train"] * 6_000)
    assert (len(pairs), notes) == (5_900, [])
    # Not even where all that were looked at are accepted.
    crossed = [dataset(*((name, 2 + i, i // 2) for i in range(20_004))) for name in ("m", "harbor")]
    rows = "".join(f"m,{2 + 2 * i},harbor,{2 + 2 * i}\n" for i in range(10_002))
    (tmp_path / "accepted.csv").write_text("set,row,other_set,other_row\n" + rows)
    with pytest.raises(InputError, match="more than 10,000 pairs of two sets or splits"):
        refuse_near_duplicates(crossed, tmp_path / "accepted.csv")


def test_a_pair_that_was_looked_at_is_accepted(tmp_path):
    table = tmp_path / "accepted.csv"
    sets = [dataset(*TRAIN), dataset(("internal", 9, 2), ("harbor", 4, 1))]
    table.write_text("set,row,other_set,other_row\nm,3,m,9\n")
    with pytest.raises(InputError, match="m row 2 and harbor row 4") as caught:
        refuse_near_duplicates(sets, table)
    assert "row 9" not in str(caught.value)
    table.write_text(f"set,row,other_set,other_row,sha256,other_sha256\nm,9,m,3,{9:064X},{3:064x}\nharbor,4,m,2,,\n")
    refuse_near_duplicates(sets, table)
    # These files in other rows, as after a row above them was removed.
    table.write_text(f"set,row,other_set,other_row,sha256,other_sha256\nm,10,m,4,{9:064x},{3:064x}\nharbor,4,m,2,,\n")
    refuse_near_duplicates(sets, table)
    # Another file in this row was not looked at.
    table.write_text(f"set,row,other_set,other_row,sha256,other_sha256\nm,9,m,3,{9:064x},{8:064x}\nharbor,4,m,2,,\n")
    with pytest.raises(InputError, match="m row 3 and internal row 9"):
        refuse_near_duplicates(sets, table)
    table.write_text("set,row,other_set\n")
    with pytest.raises(InputError, match="column other_row is missing"):
        read_accepted(table)
    with pytest.raises(InputError, match=r"no table none\.csv"):
        read_accepted(tmp_path / "none.csv")
