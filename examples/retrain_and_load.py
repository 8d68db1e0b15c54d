"""Retrain an architecture and load it with timm, as you would any of timm's models.

    python examples/retrain_and_load.py

It trains an all-involution network on scikit-learn's digits for a moment; half a minute.
"""

from pathlib import Path

import timm
import torch

import evolute


def main(folder: Path = Path("runs/retrain_and_load"), epochs: int = 3) -> torch.nn.Module:
    config = evolute.load_config("quickstart", [f"retrain.epochs={epochs}"])
    space = evolute.SearchSpace(config.space)
    architecture = tuple(
        next(name for name in layer.candidates if name.startswith("inv")) for layer in space.layers
    )
    workspace = evolute.open_workspace(config, folder)
    retrained = evolute.retrain_architecture(config, workspace, architecture, "all-involution")
    print(f"{retrained.accuracy_text} % on the test split, in {retrained.folder}")

    network = timm.create_model(
        "evolute", architecture=retrained.folder / "architecture.yaml", pretrained=True
    ).eval()
    print("images:", timm.data.resolve_model_data_config(network))
    features = timm.create_model(
        "evolute", architecture=retrained.folder / "architecture.yaml", features_only=True
    )
    print("strides of the backbone's maps:", features.feature_info.reduction())
    return network


if __name__ == "__main__":
    main()
