"""Settings by name: those of Wong 2023, Table 4.6, for learning defects of IC packages.

A preset stands under a settings file and under the command line's own options. The pruned rows of
the table (3, 4, 6 and 7) train first, are pruned by ``semiscope compress prune``, and train again
under the same preset from the pruned run (``init``), those by slimming with ``sparsity`` 0.
"""

from __future__ import annotations

from typing import Any

_SLIMMING = 5e-4  # section 3.3.7.4


def _setting(**learn: Any) -> dict[str, dict[str, Any]]:
    """What the table's rows share (section 3.3.5), with what one changes.

    No mirroring and no mosaic: a whole package must be seen, for cracks on its LED do not count.
    """
    augment = {"flip_horizontal": 0.0, "mosaic": 0.0, "paste": 0.05}
    return {
        "learn": {"augment": augment, **learn},
        "loop": {"epochs": 300, "batch": 16, "accumulate": 4, "warmup_steps": 1000},
    }


_NWD = {"box": "nwd-grid"}

PRESETS = {
    "die-baseline": _setting(),
    "die-setting-1": _setting(loss=_NWD),
    "die-setting-2": _setting(loss=_NWD, neck="slim"),
    "die-setting-3": _setting(loss=_NWD, neck="slim", sparsity=_SLIMMING),
    "die-setting-4": _setting(loss=_NWD, neck="slim"),
    "die-setting-5": _setting(loss=_NWD, neck="coord"),
    "die-setting-6": _setting(loss=_NWD, neck="coord", sparsity=_SLIMMING),
    "die-setting-7": _setting(loss=_NWD, neck="coord"),
}
