"""SAM of transformers in a small random size: our decoder against theirs."""

import pytest
import torch

pytest.importorskip("transformers")

from semiscope.nets.lora import add_lora
from semiscope.nets.sam import SAM

SIDE = 64


@pytest.fixture(scope="module")
def theirs(small_sam):
    return small_sam(32, SIDE)


def test_points_boxes_and_masks_give_what_transformers_gives(theirs):
    ours = SAM(theirs).eval()
    images = torch.randn(1, 3, SIDE, SIDE)
    point, box = torch.tensor([[20.0, 30.0]]), torch.tensor([[5.0, 8.0, 40.0, 50.0]])
    mask, none = torch.randn(1, 1, 16, 16), torch.zeros(1)
    padded = torch.stack([point, torch.zeros(1, 2)], 1)
    with torch.no_grad():
        embedding = ours.encode(images)
        assert torch.equal(embedding, theirs.get_image_embeddings(images))
        cases = (
            (
                {"input_points": point[None, None], "input_labels": torch.ones(1, 1, 1).long()},
                (padded, torch.tensor([[1, -1]]), mask, none),
            ),
            ({"input_boxes": box[None]}, (box.view(1, 2, 2), torch.tensor([[2, 3]]), mask, none)),
            (
                {"input_boxes": box[None], "input_masks": mask},
                (box.view(1, 2, 2), torch.tensor([[2, 3]]), mask, torch.ones(1)),
            ),
        )
        for asked, given in cases:
            logits, claimed = ours.decode(embedding, *given)
            for several, part in ((True, slice(1, 4)), (False, slice(0, 1))):
                expected = theirs(image_embeddings=embedding, multimask_output=several, **asked)
                # theirs adds 1e-6, not SAM's 1e-5, to the variance inside layer norms
                torch.testing.assert_close(
                    logits[:, part], expected.pred_masks[0], rtol=1e-3, atol=1e-3
                )
                torch.testing.assert_close(
                    claimed[:, part], expected.iou_scores[0], rtol=1e-3, atol=1e-3
                )


def test_its_encoder_is_adapted_and_starts_from_the_base_bit_for_bit(theirs):
    network = SAM(theirs).eval()
    images = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        before = network.encode(images)
        add_lora(network, rank=3)
        assert torch.equal(network.encode(images), before)
    learnable = [p for p in network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learnable) == 3 * 4 * 32 * 2


def test_it_takes_one_size_alone(theirs):
    network = SAM(theirs)
    network.resize(SIDE)
    with pytest.raises(ValueError, match="inputs of 64 px alone, found 128"):
        network.resize(128)
