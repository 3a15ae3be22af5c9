import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from semiscope.errors import SettingsError
from semiscope.learn import promptable
from semiscope.nets.lora import add_lora, lora_tensors
from semiscope.nets.mobile_sam import MobileSAM


def adapted():
    torch.manual_seed(0)
    network = MobileSAM(64)
    add_lora(network, rank=2)
    for path in network.fused_qkv:
        nn.init.normal_(network.get_submodule(path).q_up)
    return network


def test_an_adapter_is_a_small_file_that_fits_its_base(tmp_path):
    path, network = tmp_path / "adapter.safetensors", adapted()
    promptable.save_adapter(path, network, {"base": "mobile-sam", "rank": 2})
    assert path.stat().st_size < 100_000
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["semiscope"])["rank"] == 2
    fresh = MobileSAM(64)
    assert promptable.load_adapter(path, fresh) == {"base": "mobile-sam", "rank": 2}
    learnt = lora_tensors(fresh)
    assert learnt.keys() == lora_tensors(network).keys()
    assert all(torch.equal(t, learnt[name]) for name, t in lora_tensors(network).items())


def test_a_file_that_is_no_adapter_is_told(tmp_path):
    path = tmp_path / "odd.safetensors"
    with pytest.raises(SettingsError, match="odd.safetensors: expected an adapter"):
        promptable.load_adapter(path, MobileSAM(64))
    path.write_bytes(b"no tensors at all")
    with pytest.raises(SettingsError, match="odd.safetensors: expected an adapter"):
        promptable.load_adapter(path, MobileSAM(64))


def test_a_base_that_is_none_is_told(tmp_path):
    with pytest.raises(SettingsError, match="expected mobile-sam:FILE or sam:FOLDER"):
        promptable.load_base("segformer:x")
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(SettingsError, match="other.pt: expected MobileSAM's checkpoint.*439"):
        promptable.load_base(f"mobile-sam:{path}")
    with pytest.raises(SettingsError, match=r"absent.pt: expected MobileSAM's checkpoint.*No such"):
        promptable.load_base(f"mobile-sam:{tmp_path / 'absent.pt'}")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (pytest.fail, ("code of a file was run",))

    path = tmp_path / "harmful.pt"
    torch.save({"weight": Harmful()}, path)
    with pytest.raises(SettingsError, match="harmful.pt: expected MobileSAM's checkpoint"):
        promptable.load_base(f"mobile-sam:{path}")


def test_a_folder_without_a_sam_is_told(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="expected SAM's folder .config.json, model.safeten"):
        promptable.load_base(f"sam:{tmp_path}")
