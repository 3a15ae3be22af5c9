import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties, findfont, get_font

from semiscope.report.figures import histogram, pareto, text_width


def titles(svg):
    return [e.text for e in ET.fromstring(svg).iter("title")]


def test_pareto_is_sorted_and_adds_up():
    told = titles(pareto({"gap": (1, 0), "bridge": (4, 2), "never": (0, 0), "a<b": (0, 3)}))
    assert told == [
        "bridge: 6 (4 accepted, 2 for review), 60 % so far",
        "a<b: 3 (0 accepted, 3 for review), 90 % so far",
        "gap: 1 (1 accepted, 0 for review), 100 % so far",
    ]


def test_pareto_bars_have_the_length_of_their_counts():
    root = ET.fromstring(pareto({"gap": (1, 1), "bridge": (4, 4)}))
    wide = [float(r.get("width")) for r in root.iter("rect") if r.get("class") == "accept"]
    assert wide[0] == pytest.approx(4 * wide[1], abs=0.2)  # written to a tenth


def font_width(text):
    """What DejaVu Sans at the chart's 14 px needs."""
    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    font.set_size(1400, 72)  # at 14 px the hints would round each letter
    font.set_text(text)
    return font.get_width_height()[0] / 6400


def test_no_letter_is_wider_than_thought():
    letters = [chr(code) for code in range(33, 127)]
    assert [c for c in letters if text_width(20 * c) < font_width(20 * c)] == []


def test_long_class_names_stay_inside_the_chart():
    names = {
        "multi_bridge_non_horizontal": "multi_bridge_non_horizontal",
        "particle_below_the_second_passivation_lay": r"particle_b\w*…\w*ation_lay",
        "WAFER EDGE WARPAGE OR WOBBLE (MAJOR)": r"WAFER \w.*….*MAJOR\)",
        "gap": "gap",
    }
    root = ET.fromstring(pareto(dict.fromkeys(names, (1, 1))))
    bars = [g for g in root.iter("g") if g.get("class") == "bar"]
    assert {g.get("data-class") for g in bars} == set(names)
    for bar in bars:
        name, text = bar.get("data-class"), next(bar.iter("text"))
        assert re.fullmatch(names[name], text.text)
        assert bar.find("title").text.startswith(f"{name}: 2 ")
        # the text ends where it is put
        assert font_width(text.text) < float(text.get("x")) < 240


def test_short_class_names_leave_the_room_to_the_bars():
    def widest(name):
        return max(float(r.get("width")) for r in rects(pareto({name: (1, 0)})))

    def rects(svg):
        return [r for r in ET.fromstring(svg).iter("rect") if r.get("class") == "accept"]

    assert widest("gap") > widest("multi_bridge_non_horizontal") > 200


def test_pareto_takes_rare_classes_together():
    told = titles(pareto({f"class {i}": (100 - i, 0) for i in range(40)}))
    assert len(told) == 15
    assert told[-1].startswith("26 other classes: ") and told[-1].endswith("100 % so far")


@pytest.mark.parametrize("limits", [None, (0, 1)])
def test_histogram_counts_what_numpy_counts(limits):
    values = np.random.default_rng(0).random(500)
    review = values < 0.3
    told = titles(histogram(values, review, "nm", limits=limits))
    total = [int(re.search(r": (\d+)", t)[1]) for t in told]
    doubtful = [int(re.search(r"\((\d+) for", t)[1]) for t in told]
    assert sum(total) == 500 and sum(doubtful) == review.sum()
    assert total == np.histogram(values, 20, (0, 1))[0].tolist()


def test_far_values_share_the_last_bar():
    values = np.concatenate([np.linspace(1, 20, 200), [5000.0, 9000.0]])
    told = titles(histogram(values, np.zeros(202, bool), "nm"))
    assert re.fullmatch(r"from [\d.]+ nm: \d+ \(0 for review\)", told[-1])
    assert sum(int(re.search(r": (\d+)", t)[1]) for t in told) == 202


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [1e-6], [1e9, 1.0]])
def test_histogram_of_few_values(values):
    told = titles(histogram(values, np.ones(len(values), bool), "px"))
    assert sum(int(re.search(r": (\d+)", t)[1]) for t in told) == len(values)


def test_nothing_to_show():
    assert "No defects" in pareto({"gap": (0, 0)}) and "No defects" in histogram([], [], "nm")
