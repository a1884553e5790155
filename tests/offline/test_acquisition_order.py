"""What is learned when, on readings whose answer is known."""

from __future__ import annotations

import math
import re

import pytest

from lightning_interp import Readings, acquisition, acquisition_agreement
from lightning_interp.functional import mean_interval
from lightning_interp.offline.acquisition_order import KINDS, Kind, keys_of

STEPS = (1, 10, 100, 1000)


def run(values: dict[str, list[float]], steps: tuple[int, ...] = STEPS) -> Readings:
    return Readings(
        [{"step": step} | {key: of[place] for key, of in values.items()} for place, step in enumerate(steps)]
    )


def test_what_is_learned_and_forgotten() -> None:
    readings = run(
        {
            "class_accuracy/lm/mean": [0.0, 0.9, 0.9, 0.9, 0.9, 0.9],
            "class_accuracy/lm/NOUN": [0.0, 0.1, 0.8, 0.8, 0.8, 0.8],
            "class_accuracy/lm/DET": [0.1, 0.9, 0.9, 0.9, 0.9, 0.9],
            "class_accuracy/lm/ADJ": [0.20, 0.21, 0.22, 0.23, 0.23, 0.24],
            "class_accuracy/lm/NAME": [0.0, 0.9, 0.9, 0.9, 0.1, 0.0],
            "class_loss/lm/DET": [3.0, 2.0, 1.0, 0.0, 0.0, 0.0],
        },
        (1, 10, 100, 1000, 2000, 3000),
    )
    found = acquisition(readings)
    assert list(found.things) == ["NOUN", "DET", "ADJ", "NAME"]
    assert found.groups == {"words": ["DET", "NOUN", "ADJ", "NAME"]}
    assert found.things["DET"].curve.acquired.high == 10
    # 90 % of the rise above the first reading: .1 + .9 × .8.
    assert found.things["DET"].baseline == 0.1
    assert found.things["NOUN"].curve.acquired.low == 10 < found.things["NOUN"].curve.acquired.high == 100
    # A tenth of it is there from the second reading on.
    assert acquisition(readings, share=0.1).things["NOUN"].curve.acquired.high == 10
    assert not found.things["ADJ"].learned
    assert math.isnan(found.things["ADJ"].curve.acquired.step)
    assert acquisition(readings, least_rise=0.03).things["ADJ"].learned
    assert [name for name, one in found.things.items() if one.forgotten] == ["NAME"]
    assert not acquisition(readings, lost=1.0).things["NAME"].forgotten
    lines = found.table().splitlines()
    assert lines[1] == "words"
    assert [line.split()[0] for line in lines[2:]] == ["DET", "NOUN", "ADJ", "NAME"]
    assert re.search(r"ADJ +0.00 +0.20 +0.24  not there$", lines[4])
    assert lines[5].endswith("not there  forgotten")


def test_the_best_site_is_held_against_the_best_of_random_weights() -> None:
    readings = run(
        {
            "uuas/a": [0.5, 0.5, 0.5, 0.5],
            "uuas/b": [0.4, 0.6, 0.8, 0.8],
            "uuas_above_chain/a": [0.1] * 4,
            "uuas_above_chain/b": [0.0, 0.2, 0.4, 0.4],
            "uuas_baseline/a": [0.6] * 4,
            "uuas_baseline/b": [0.3] * 4,
        }
    )
    one = acquisition(readings).things["tree distance"]
    assert (one.key, one.site, one.baseline, one.chance) == ("uuas/b", "b", 0.6, pytest.approx(0.4))
    assert one.curve.acquired.high == 100


def test_a_probe_is_held_against_dealt_labels_and_not_against_the_most_frequent_one() -> None:
    values = {
        "probe_accuracy/a/pos": [0.2, 0.3, 0.5, 0.5],
        "probe_majority/a/pos": [0.6] * 4,
        "probe_baseline/a/pos": [0.2] * 4,
    }
    one = acquisition(run(values | {"probe_chance/a/pos": [0.25] * 4})).things["pos"]
    assert (one.chance, one.learned, one.curve.acquired.high) == (0.25, True, 100)
    # Where nobody read the level of chance, random weights are what there is.
    one = acquisition(run(values)).things["pos"]
    assert math.isnan(one.chance)
    assert (one.baseline, one.learned) == (0.2, True)


def test_facts_are_held_against_what_knows_how_common_answers_are() -> None:
    levels = {"cloze_majority/pet": [0.2] * 4, "cloze_frequency/pet": [0.5] * 4, "cloze_chance/pet": [0.25] * 4}
    one = acquisition(run({"cloze_accuracy/pet": [0.25, 0.4, 0.52, 0.52]} | levels)).things["pet"]
    assert one.chance == 0.5
    assert not one.learned


def test_things_of_one_name_are_told_apart() -> None:
    readings = run(
        {
            "class_accuracy/a/NOUN": [0.0, 0.9, 0.9, 0.9],
            "class_accuracy/b/NOUN": [0.0, 0.0, 0.9, 0.9],
            "class_accuracy/b/VERB": [0.0, 0.0, 0.0, 0.9],
            "truth_overall/x/mass_mean": [0.5, 0.5, 0.9, 0.9],
            "truth_overall/x/logistic": [0.5, 0.5, 0.5, 0.9],
        }
    )
    things = acquisition(readings).things
    assert list(things) == ["a/NOUN", "b/NOUN", "VERB", "truth, mass_mean", "truth, logistic"]
    assert things["truth, logistic"].site == "x"


def test_undefined_values_are_passed_over() -> None:
    nan = math.nan
    readings = run({"auroc_confidence/lm": [nan, 0.5, nan, 0.9], "auroc_confidence/other": [nan] * 4})
    one = acquisition(readings).things["confidence"]
    assert (one.site, one.curve.first, one.curve.acquired.low) == ("lm", 0.5, 10)
    with pytest.raises(ValueError, match="No reading is of"):
        acquisition(run({"auroc_confidence/other": [nan] * 4}))


def test_every_kind_says_what_its_keys_are_held_against() -> None:
    for kind in KINDS:
        words = re.findall(r"\{(\w+)\}", kind.key)
        for form in (kind.name, kind.above, kind.baseline, *kind.levels):
            assert set(re.findall(r"\{(\w+)\}", form)) <= set(words)
        assert not (kind.above and kind.levels)
        key = kind.key.format(**dict.fromkeys(words, "x"))
        assert len(keys_of(kind, run({key: [0.0] * 4}))) == 1


def test_kinds_of_ones_own() -> None:
    shapes = Kind("shape", "CKA with the last reading", "cka/{layer}/last", "shape of {layer}")
    readings = run({"cka/one/last": [0.2, 0.9, 1.0, 1.0], "cka/two/last": [0.2, 0.3, 1.0, 1.0]})
    found = acquisition(readings, kinds=[*KINDS, shapes])
    assert found.groups == {"shape": ["shape of one", "shape of two"]}
    with pytest.raises(ValueError, match=r"No reading is of .*there are \['cka/one/last', 'cka/two/last'\]"):
        acquisition(readings)
    with pytest.raises(ValueError, match="`share` must lie above 0"):
        acquisition(readings, share=0)


def seeds(shift: int = 0) -> list[Readings]:
    found = []
    for seed in range(3):
        at = {"DET": 1, "NOUN": 2, "VERB": 3 + shift * seed, "ADJ": 9}
        curves = {
            f"class_accuracy/lm/{name}": [0.9 * (place >= first) for place in range(5)] for name, first in at.items()
        }
        found.append(run(curves | {f"pairs_accuracy/only_{seed}": [0.5] * 5}, (1, 10, 100, 1000, 10_000)))
    return found


def test_orders_that_agree_and_one_that_is_never_learned() -> None:
    orders = [acquisition(one) for one in seeds()]
    found = acquisition_agreement(orders)
    assert found.groups == {"words": ["DET", "NOUN", "VERB", "ADJ"]}
    assert found.ranks["words"].tolist() == [[1, 2, 3, 4]] * 3
    assert found.concordance["words"].w == 1
    printed = found.table()
    assert "words: Kendall's W 1.00 (p = 0.0" in printed
    order = [line.split()[0] for line in printed.splitlines() if line.startswith("  ") and line.split()[0].isupper()]
    assert order == ["DET", "NOUN", "VERB", "ADJ"]
    never = next(line for line in printed.splitlines() if "ADJ" in line)
    assert "4.0 ± 0.0" in never
    assert never.endswith("0, 0")
    middle, _ = mean_interval([math.log(one.things["NOUN"].curve.acquired.step) for one in orders])
    assert f"{math.exp(middle):.0f} (" in next(line for line in printed.splitlines() if "NOUN" in line)
    rows = [text.get_text() for text in found.plot("order").axes[0].get_yticklabels()]
    assert rows[:3] == ["DET", "NOUN", "VERB"]


def test_orders_that_do_not_agree() -> None:
    assert acquisition_agreement([acquisition(one) for one in seeds(shift=-2)]).concordance["words"].w < 1
    one = acquisition_agreement([acquisition(seeds()[0])])
    assert one.concordance == {}
    assert one.groups["words"][0] == "DET"


def test_errors_over_seeds() -> None:
    with pytest.raises(ValueError, match="`orders` is empty"):
        acquisition_agreement([])
    found = [acquisition(run({f"pairs_accuracy/{name}": [0.5] * 4})) for name in "ab"]
    with pytest.raises(ValueError, match=r"No thing is common to all `orders`; they have \[\['a'\], \['b'\]\]"):
        acquisition_agreement(found)
