"""A spatial transformer network in PyTorch, in the shape of PyTorch's tutorial, and its port.

``MODEL`` is ours, of the layers and sizes of the tutorial "Spatial Transformer Networks": two
convolutions and two dense layers that regress an affine map, and a small classifier behind it.
"""

import torch.nn.functional as F  # noqa: N812
from torch import nn


class SpatialTransformerNetwork(nn.Module):
    """Logits of digits of 28×28 pixels."""

    def __init__(self):
        super().__init__()
        self.localization = nn.Sequential(
            nn.Conv2d(1, 8, 7), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
        )  # fmt: skip
        self.fc_loc = nn.Sequential(nn.Linear(10 * 3 * 3, 32), nn.ReLU(), nn.Linear(32, 6))
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.fc1 = nn.Linear(20 * 4 * 4, 50)
        self.fc2 = nn.Linear(50, 10)

    def theta(self, x):
        return self.fc_loc(self.localization(x).flatten(1)).view(-1, 2, 3)

    def forward(self, x):
        grid = F.affine_grid(self.theta(x), x.shape, align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))
