"""Search with an operator of your own: a grouped convolution with a channel shuffle.

    python examples/own_operator.py

This file is its own plugin: Evolute runs it to register the operator, here and in every worker.
A supernet is trained on scikit-learn's digits for a moment, then searched; a minute in all.
"""

from pathlib import Path

from torch import nn

import evolute


@evolute.register_operator("shuffle")
def shuffle(in_channels, out_channels, stride, groups=4):
    """Grouped convolution, then a channel shuffle."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.ChannelShuffle(groups))


CONFIG = """
name: shuffle
plugins: [{plugin}]
space:
  input_size: 8
  in_channels: 1
  stem: {{width: 16}}
  candidates:
    conv3: {{operator: convolution}}
    inv3: {{operator: involution, kernel_size: 3}}
    shuffle4: {{operator: shuffle, groups: 4}}
  stages:
    - {{width: 32, depth: 2, expansion: 2}}
    - {{width: 64, depth: 2, stride: 2, expansion: 2}}
train: {{epochs: 4}}
search:
  objectives: {{accuracy: maximize, params: minimize}}
  trials: 12
  workers: 0
  sampler: evolution
retrain: {{epochs: 4}}
"""


def main(folder: Path = Path("runs/own_operator")) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "shuffle.yaml"
    file.write_text(CONFIG.format(plugin=Path(__file__).resolve()))
    config = evolute.load_config(file)
    winner, baseline = evolute.run_pipeline(config, folder)
    for network in (winner, baseline):
        print(f"{network.name}: {network.accuracy_text} %  {' '.join(network.architecture)}")


if __name__ == "__main__":
    main()
