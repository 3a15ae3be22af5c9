import pytest
import torch
from torch import nn

from semiscope.nets.lora import LowRankQV, add_lora, load_lora, lora_tensors, merge_lora
from semiscope.nets.mobile_sam import MobileSAM
from semiscope.nets.promptable import PromptableNetwork

# SAM's encoders: width, layers and the published learnable numbers for each rank
VISION = {"B": (768, 12, 36_864), "L": (1024, 24, 98_304), "H": (1280, 32, 163_840)}


class Encoder(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))


def vision(width, depth):
    fused = {f"image_encoder.layers.{i}": 1 for i in range(depth)}
    return PromptableNetwork(Encoder(width, depth), 64, fused)


def learnt(layer):
    """The layer with something learnt in every factor."""
    for parameter in (layer.q_up, layer.v_up):
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("size", VISION)
def test_learnable_numbers_for_each_rank_are_the_published_ones(size):
    width, depth, expected = VISION[size]
    with torch.device("meta"):
        network = vision(width, depth)
        add_lora(network, rank=2)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 2 * expected


def test_before_learning_the_answer_is_the_bases_bit_for_bit():
    torch.manual_seed(0)
    network = MobileSAM(64).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = network.encode(image)
        add_lora(network, rank=4)
        assert torch.equal(network.encode(image), before)


def test_the_first_factor_is_gaussian_and_the_second_zero():
    torch.manual_seed(0)
    layer = LowRankQV(nn.Linear(400, 1200), 1, rank=50)
    for down, up in ((layer.q_down, layer.q_up), (layer.v_down, layer.v_up)):
        assert not up.any() and up.shape == (400, 50)
        spread = down.std().item()
        assert spread == pytest.approx(400**-0.5, rel=0.05)
        # as a Gaussian has them: 68.3 % within one deviation, 95.4 % within two
        within = [(down.abs() < k * spread).float().mean().item() for k in (1, 2)]
        assert within == pytest.approx([0.683, 0.954], abs=0.01)


@pytest.mark.parametrize("groups", [1, 4])
def test_keys_stay_and_queries_and_values_change_by_the_product_of_the_factors(groups):
    torch.manual_seed(0)
    base = nn.Linear(8, 24)
    layer = learnt(LowRankQV(base, groups, rank=2))
    x = torch.randn(5, 8)
    change = (layer(x) - base(x)).view(5, groups, 3, 8 // groups)
    query = (x @ layer.q_down.T @ layer.q_up.T).view(5, groups, -1)
    value = (x @ layer.v_down.T @ layer.v_up.T).view(5, groups, -1)
    torch.testing.assert_close(change[:, :, 0], query, rtol=1e-4, atol=1e-5)
    assert torch.equal(change[:, :, 1], torch.zeros_like(query))
    torch.testing.assert_close(change[:, :, 2], value, rtol=1e-4, atol=1e-5)


def test_mobile_sams_keys_stay_in_its_own_order_of_heads():
    torch.manual_seed(0)
    network = MobileSAM(64)
    attention = network.image_encoder.layers[1].blocks[0].attn
    x = torch.randn(1, 49, 128)
    before = attention.qkv(x).unflatten(-1, (attention.heads, 3, -1))
    add_lora(network, rank=2)
    learnt(attention.qkv)
    after = attention.qkv(x).unflatten(-1, (attention.heads, 3, -1))
    assert torch.equal(before[..., 1, :], after[..., 1, :])
    assert not torch.isclose(before[..., 0, :], after[..., 0, :]).all(-1).any()
    assert not torch.isclose(before[..., 2, :], after[..., 2, :]).all(-1).any()


def test_only_the_adaptation_learns_and_a_gradient_reaches_it_through_the_decoder():
    torch.manual_seed(0)
    network = MobileSAM(64).eval()
    add_lora(network, rank=2)
    for path in network.fused_qkv:
        learnt(network.get_submodule(path))
    points, labels = torch.tensor([[[20.0, 30.0], [0.0, 0.0]]]), torch.tensor([[1, -1]])
    masks, claimed = network(
        torch.randn(1, 3, 64, 64), points, labels, torch.zeros(1, 1, 16, 16), torch.zeros(1)
    )
    (masks.square().mean() + claimed.sum()).backward()
    reached = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == lora_tensors(network).keys()
    assert len(reached) == 4 * 10


def test_merged_it_is_the_same_function_and_the_bases_architecture():
    torch.manual_seed(0)
    base = nn.Linear(12, 36)
    layer = learnt(LowRankQV(base, 3, rank=4))
    kept = base.weight.clone()
    x = torch.randn(7, 12)
    torch.testing.assert_close(layer.merged()(x), layer(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(base.weight, kept)
    network = vision(16, 2)
    names = network.state_dict().keys()
    add_lora(network, 2)
    assert network.state_dict().keys() != names
    merge_lora(network)
    assert network.state_dict().keys() == names


def test_what_was_learnt_comes_back_on_a_fresh_base():
    torch.manual_seed(0)
    first, second = vision(16, 2), vision(16, 2)
    add_lora(first, 3)
    for path in first.fused_qkv:
        learnt(first.get_submodule(path))
    load_lora(second, lora_tensors(first))
    for name, tensor in lora_tensors(second).items():
        assert torch.equal(tensor, lora_tensors(first)[name])


def test_an_adaptation_of_another_architecture_is_refused():
    given = vision(16, 2)
    add_lora(given, 3)
    tensors = lora_tensors(given)
    with pytest.raises(ValueError, match="expected 12 tensors, found 8; not in both: image_enc"):
        load_lora(vision(16, 3), tensors)
    with pytest.raises(ValueError, match=r"q_down: expected \(3, 24\), found \(3, 16\)"):
        load_lora(vision(24, 2), tensors)


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(ValueError, match=f"from 1 to 8, found {rank}"):
        LowRankQV(nn.Linear(8, 24), 1, rank)
