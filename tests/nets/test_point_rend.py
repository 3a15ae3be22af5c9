import pytest
import torch
import torch.nn.functional as F

from semiscope.nets.point_rend import PointRendHead, cells, sample, uncertain_points

BOXES = torch.tensor([[[8.0, 8, 40, 24], [0, 0, 64, 64]], [[16.0, 0, 20, 60], [63, 63, 64, 64]]])
CLASSES = torch.tensor([[0, 2], [1, 1]])


def head(subdivisions=5):
    torch.manual_seed(0)
    return PointRendHead(3, 8, 16, subdivisions).eval()


def pyramid():
    torch.manual_seed(1)
    return [torch.randn(2, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)]


def test_cells_have_their_centres_half_a_cell_in():
    assert cells(2, torch.device("cpu")).tolist() == [
        [0.25, 0.25],
        [0.75, 0.25],
        [0.25, 0.75],
        [0.75, 0.75],
    ]


def test_sampling_a_ramp_gives_its_values():
    ramp = torch.arange(8.0).expand(1, 1, 4, 8)
    points = torch.tensor([[[0.5 / 8, 0.5], [3.75 / 8, 0.1], [1.0, 1.0]]])
    # cell i has its centre at i + 0.5; the border holds beyond the last centre
    torch.testing.assert_close(sample(ramp, points), torch.tensor([[[0.0, 3.25, 7.0]]]))


def test_points_gather_where_the_mask_is_unsure():
    torch.manual_seed(0)
    ramp = (torch.arange(7.0) - 3).expand(2, 1, 7, 7)  # unsure at x = 0.5, surer to both sides
    points = uncertain_points(ramp, 196)
    assert points.shape == (2, 196, 2) and (points >= 0).all() and (points <= 1).all()
    chosen, rest = points[:, :147, 0], points[:, 147:, 0]
    # three times 196 points were drawn; the 147 nearest lie within about an eighth
    assert (chosen - 0.5).abs().max() == pytest.approx(0.125, abs=0.03)
    assert (rest - 0.5).abs().max() > 0.4


def test_a_border_between_two_sure_cells_is_unsure():
    torch.manual_seed(0)
    coarse = torch.full((1, 1, 7, 7), -8.0)
    coarse[..., 4:] = 8.0  # between the centres at 3.5 and 4.5 sevenths the logit crosses 0
    chosen = uncertain_points(coarse, 40)[0, :30, 0]
    assert ((chosen - 4 / 7).abs() < 1 / 14).sum() >= 10


@pytest.mark.parametrize(("subdivisions", "side"), [(1, 14), (2, 28), (4, 112), (5, 224)])
def test_each_subdivision_doubles_the_mask(subdivisions, side):
    with torch.no_grad():
        masks = head(subdivisions).masks(pyramid(), BOXES, CLASSES)
    assert masks.shape == (2, 2, side, side) and torch.isfinite(masks).all()


def test_up_to_28_every_point_is_decided_by_the_point_head():
    network, levels = head(2), pyramid()
    with torch.no_grad():
        masks = network.masks(levels, BOXES, CLASSES)
        p2, index = levels[0], 1  # the second box of the first image: the whole input, class 2
        coarse = network._coarse(p2, BOXES)
        points = cells(28, p2.device)[None]
        fine = sample(p2[:1], points).transpose(1, 2)
        logits = network.point(fine, sample(coarse[index : index + 1], points).transpose(1, 2))
    torch.testing.assert_close(masks[0, 1].flatten(), logits[0, :, 2], rtol=1e-4, atol=1e-5)


def test_beyond_28_only_uncertain_points_change():
    network = head(3)
    with torch.no_grad():
        network.point.last.weight *= 300  # masks that vary
        fine = network.masks(pyramid(), BOXES, CLASSES)[0, 1]
        network.subdivisions = 2
        start = network.masks(pyramid(), BOXES, CLASSES)[0, 1]
    plain = F.interpolate(start[None, None], scale_factor=2, mode="bilinear")[0, 0]
    changed = (plain - fine).abs() > 1e-6
    assert 0 < changed.sum() <= 784
    assert plain[changed].abs().max() <= plain.abs().flatten().kthvalue(784).values


def test_the_coarse_prediction_enters_every_layer():
    network = head().point
    # three layers and the last take 8 features and the 3 classes of the coarse mask
    assert [layer.in_features for layer in (*network.layers, network.last)] == [11] * 4


def test_training_gives_points_and_a_gradient_everywhere():
    network = head().train()
    said = network(pyramid(), BOXES, CLASSES)
    assert said.logits.shape == (2, 2, 7, 7) and said.point_logits.shape == (2, 2, 196)
    (said.logits.square().mean() + said.point_logits.square().mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
