"""What labelling costs a person, under a stated model: the meaning of SeSAMI's figure 9."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from semiscope.config import Settings


class CostSettings(Settings):
    """Seconds that a person needs. Measure your own; these are the literature's.

    Outlining: Lin et al. 2014 (COCO) report 22 hours for 1,000 instances. Boxes: Papadopoulos et
    al. 2017, extreme clicking.
    """

    draw_s: float = Field(79.2, gt=0, description="To outline a region by hand")
    prompt_s: float = Field(7.0, ge=0, description="To show a region by a box; 0 if boxes are had")
    check_s: float = Field(2.0, ge=0, description="To look at a proposed mask")
    good_iou: float = Field(
        0.95, gt=0, le=1, description="A mask that fits at least so well stays as it is"
    )

    def manual(self, regions: int) -> float:
        """Seconds to outline all regions by hand."""
        return self.draw_s * regions

    def assisted(self, iou: ArrayLike) -> float:
        """Seconds to show, look at and correct the masks that were proposed.

        What is wrong with a mask is drawn again: 1 - IoU of the work of drawing it. A region
        without a proposal has IoU 0.
        """
        fit = np.asarray(iou, np.float64)
        again = np.where(fit < self.good_iou, 1 - fit, 0.0)
        return float((self.prompt_s + self.check_s) * fit.size + self.draw_s * again.sum())
