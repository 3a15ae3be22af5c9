import pytest

from semiscope.label.cost import CostSettings


def test_seconds_by_hand():
    cost = CostSettings(draw_s=80, prompt_s=7, check_s=2, good_iou=0.95)
    assert cost.manual(3) == 240
    # the first is good, the second is half wrong, the third was not proposed
    assert cost.assisted([0.96, 0.5, 0.0]) == pytest.approx(3 * 9 + 40 + 80)
    assert cost.assisted([]) == 0
    assert CostSettings().manual(1000) == pytest.approx(22 * 3600)
