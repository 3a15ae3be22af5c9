import pytest
from pydantic import ValidationError

from semiscope.errors import SettingsError
from semiscope.infer.model import DialPoint
from semiscope.inspection.dial import DialSettings, knee, measure_dial


def point(boxes, ap, seconds):
    return DialPoint(boxes=boxes, steps=1, map=ap, seconds=seconds)


def test_the_knee_is_the_fastest_that_is_good_enough():
    points = [point(500, 0.66, 0.9), point(100, 0.655, 0.3), point(50, 0.63, 0.2)]
    assert knee(points, 0.01).boxes == 100
    assert knee(points, 0.0).boxes == 500
    assert knee(points, 0.05).boxes == 50
    # nothing found at all: the fastest
    assert knee([point(9, 0.0, 0.2), point(5, 0.0, 0.1)], 0.01).boxes == 5


def test_a_model_without_random_boxes_has_no_dial(tmp_path):
    with pytest.raises(SettingsError, match="diffusion"):
        measure_dial(DialSettings(model="sem-lines", data=tmp_path))


@pytest.mark.parametrize("bad", [{"boxes": (100_000,)}, {"boxes": (0,)}, {"steps": (0,)}])
def test_impossible_choices_are_refused(tmp_path, bad):
    with pytest.raises(SettingsError, match=next(iter(bad))):
        measure_dial(DialSettings(model="sem-lines", data=tmp_path, **bad))
    with pytest.raises(ValidationError):
        DialSettings(model="sem-lines", data=tmp_path, boxes=())
