"""Search for a metric of your own: the accuracy that is lost when images are noisy.

    python examples/own_metric.py

This file is its own plugin, as in `own_operator.py`. The metric is an objective beside accuracy and
params, in the search, in its tables and pictures, and in MLflow; a minute.
"""

from pathlib import Path

import torch

import evolute


@evolute.register_metric(
    "noise_loss",
    label="loss under noise",
    unit="points",
    direction="minimize",
    effort=evolute.EVALUATED,  # it needs images: measured last, and only where no bound is exceeded
    write="{:.1f}".format,
)
def noise_loss(subject: evolute.Subject) -> float:
    """Percentage points of accuracy lost when normal noise of deviation 0.5 is added."""
    generator = torch.Generator().manual_seed(0)
    noisy = [
        (images + 0.5 * torch.randn(images.shape, generator=generator), labels)
        for images, labels in subject.data.validation
    ]
    clean = evolute.measure_accuracy(subject.calibrated, subject.data.validation)
    return max(clean - evolute.measure_accuracy(subject.calibrated, noisy), 0.0)


CONFIG = """
name: robust
plugins: [{plugin}]
device: cpu
space:
  input_size: 8
  in_channels: 1
  stem: {{width: 16}}
  candidates:
    conv3: {{operator: convolution}}
    inv5: {{operator: involution, kernel_size: 5}}
    skip: {{operator: skip}}
  stages:
    - {{width: 32, depth: 3, expansion: 2}}
    - {{width: 64, depth: 3, stride: 2, expansion: 2}}
train: {{epochs: 4}}
search:
  objectives: {{accuracy: maximize, noise_loss: minimize, params: minimize}}
  trials: 12
  workers: 0
  sampler: evolution
"""


def main(folder: Path = Path("runs/own_metric")) -> evolute.SearchResult:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "robust.yaml"
    file.write_text(CONFIG.format(plugin=Path(__file__).resolve()))
    config = evolute.load_config(file)
    workspace = evolute.open_workspace(config, folder)
    evolute.train_supernet(config, workspace)
    return evolute.search_architectures(config, workspace)


if __name__ == "__main__":
    main()
