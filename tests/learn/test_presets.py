import pytest

from semiscope.learn.loop import LoopSettings
from semiscope.learn.presets import PRESETS
from semiscope.learn.tasks.detect import DetectSettings

# Wong 2023, Table 4.6: NWD, neck, pruning by slimming
ROWS = {
    "die-baseline": (False, "elan", False),
    "die-setting-1": (True, "elan", False),
    "die-setting-2": (True, "slim", False),
    "die-setting-3": (True, "slim", True),
    "die-setting-4": (True, "slim", False),
    "die-setting-5": (True, "coord", False),
    "die-setting-6": (True, "coord", True),
    "die-setting-7": (True, "coord", False),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_are_the_rows_of_the_table(name):
    learn = DetectSettings.from_dict({"data": "x", **PRESETS[name]["learn"]}, name)
    loop = LoopSettings.from_dict(PRESETS[name]["loop"], name)
    row = (learn.loss.box == "nwd-grid", learn.neck, learn.sparsity == 5e-4)
    assert row == ROWS[name] and (learn.sparsity > 0) == row[2]
    # section 3.3.5: 300 epochs, batch 16, 640 px, SGD, from scratch, no mosaic
    assert (loop.epochs, loop.batch, learn.height, learn.width) == (300, 16, 640, 640)
    assert learn.optimiser == "sgd" and not learn.pretrained and learn.augment.mosaic == 0
    assert PRESETS.keys() == ROWS.keys()
