"""What has become of a model, for people and for programs."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

from penstock.optimize import plot
from penstock.optimize.figures import Figures, Speed, loss
from penstock.optimize.report import Report, Stage, markdown, write_report

BEFORE = Figures(
    "tiny",
    "transformers",
    16_000_000,
    100.0,
    10_200,
    (Speed(1, 5_000, 200, 0.1), Speed(16, 9_000, 1_300, 0.02)),
    9,
    9,
)
AFTER = Figures(
    "3-quantize",
    "onnx",
    2_000_000,
    101.0,
    10_200,
    (Speed(1, 7_000, 900, 0.05), Speed(16, 9_500, 2_600, 0.01)),
    4,
    9,
)
REPORT = Report(
    (
        Stage("original", {}, {}, BEFORE),
        Stage(
            "<quantize>", {"to": "int4", "calibration": None}, {"layers": [1, 2.34567], "by": {"a": 1}}, AFTER
        ),
    ),
    machine="a machine",
)


def test_the_table_compares_with_what_it_began_with():
    text = markdown(REPORT)
    assert "| original | transformers | 16 MB | 1.0 | 100.00 | +0.00 % | 5000 | 200 | 1.0 |" in text
    assert (
        "| <quantize> | onnx | 2 MB | 8.0 | 101.00 | +1.00 % | 7000 | 900 | 4.5 | 9500 | 2600 | 2.0 |" in text
    )
    assert "lay within 10 % of each other. a machine" in text


def test_what_each_step_did_is_told_beneath():
    assert markdown(REPORT).endswith("## <quantize>\n\n- to: int4\n- layers: 1, 2.346\n- by: a 1\n")


def test_loss_is_a_share_of_the_perplexity():
    assert loss(AFTER, BEFORE) == pytest.approx(0.01)


def test_the_three_files_are_written(tmp_path):
    write_report(REPORT, tmp_path / "deep")
    assert (tmp_path / "deep" / "report.md").read_text() == markdown(REPORT)
    told = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert told["stages"][1]["figures"]["speeds"][0]["decode"] == 900
    drawn = ET.parse(tmp_path / "deep" / "report.svg").getroot()
    texts = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("<quantize>") == 4
    assert "weights, MB" in texts


def test_bars_are_as_long_as_their_values():
    drawn = ET.fromstring(plot.bars([plot.Panel("size", ["a", "b", "c"], [10.0, 5.0, 0.0])]))
    bars = [each for each in drawn.iter("{http://www.w3.org/2000/svg}rect") if each.get("x")]
    widths = [float(each.get("width")) for each in bars]
    assert widths[0] == pytest.approx(2 * widths[1])
    assert widths[2] == 0


def test_a_curve_goes_through_its_points():
    points = [plot.Point(1, 10, "4 layers"), plot.Point(0.5, 20, "2 layers")]
    drawn = ET.fromstring(plot.curve("t", "x", "y", points))
    (line,) = drawn.iter("{http://www.w3.org/2000/svg}polyline")
    circles = [(each.get("cx"), each.get("cy")) for each in drawn.iter("{http://www.w3.org/2000/svg}circle")]
    assert [tuple(each.split(",")) for each in line.get("points").split()] == circles
    (right, low), (left, high) = ((float(x), float(y)) for x, y in circles)
    assert right > left
    assert low > high  # y grows downwards
    ET.fromstring(plot.curve("one", "x", "y", points[:1]))
