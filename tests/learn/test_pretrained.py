import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from semiscope.errors import SettingsError
from semiscope.learn.pretrained import read_weights


class Code:
    """What writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """What is asked of the model hub; it has no file."""
    asked = []

    def refuse(repository, file):
        asked.append((repository, file))
        raise OSError("no connection\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    return asked


def test_a_file_of_each_kind_is_read_without_asking_anyone(tmp_path, hub):
    tensors = {"conv1.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(1)}
    torch.save(tensors, tmp_path / "plain.pth")
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "model ä.pt")
    torch.save({"state_dict": tensors}, tmp_path / "state.pth")
    save_file(tensors, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        found = read_weights(str(path), "resnet50")
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[k], tensors[k]) for k in tensors)
    assert not hub


def test_a_bad_file_is_named(tmp_path):
    bad = tmp_path / "bad.pth"
    for content in ([1, 2], {"a": 1}, Code(tmp_path / "ran")):
        torch.save(content, bad)
        with pytest.raises(SettingsError, match=r"bad\.pth: expected resnet50 weights"):
            read_weights(str(bad), "resnet50")
    assert not (tmp_path / "ran").exists()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    for path in (broken, tmp_path / "missing.pth"):
        with pytest.raises(SettingsError, match="expected swin-b weights, found"):
            read_weights(str(path), "swin-b")


def test_the_hub_is_asked_by_name_and_its_absence_explained(hub):
    with pytest.raises(SettingsError, match=r"found: no connection\. .* give its path"):
        read_weights("imagenet", "resnet101")
    assert hub == [("timm/resnet101.tv_in1k", "model.safetensors")]


def test_what_the_hub_gives_is_read(tmp_path, monkeypatch):
    save_file({"conv1.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repository, file: str(tmp_path / file)
    )
    assert torch.equal(read_weights("imagenet", "resnet18")["conv1.weight"], torch.ones(2))


def test_sources_that_have_no_such_backbone_say_so(hub):
    with pytest.raises(SettingsError, match="found resnet50"):
        read_weights("package", "resnet50")
    with pytest.raises(SettingsError, match="Use 'package'"):
        read_weights("imagenet", "efficientnet-lite0")
    assert not hub
