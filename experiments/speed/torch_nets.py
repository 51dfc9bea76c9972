"""The networks of the comparison, as users of PyTorch write or fetch them: the same layers as tlx's."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn


def mlp(widths: Sequence[int] = (800, 800)) -> nn.Module:
    """784-WIDTHS-10."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip((784, *widths[:-1]), widths, strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def cnn() -> nn.Module:
    """Two convolutions of 16 and 32 channels with pooling, a dense layer of 64."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


def resnet20() -> nn.Module:
    """Of He et al. (2016), section 4.2, on 32 x 32 in colour, with projections for shortcuts."""
    widths = (16, 16, 16, 32, 32, 32, 64, 64, 64)
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in zip((16, *widths[:-1]), widths, strict=True)]
    stem = (nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def published(name: str) -> nn.Module:
    """Of torchvision, or of timm."""
    if name == "efficientnet_lite0":
        import timm

        return timm.create_model(name, num_classes=1000)
    import torchvision

    return getattr(torchvision.models, {"vit_b16": "vit_b_16"}.get(name, name))(num_classes=1000)


SMALL: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": cnn, "resnet20": resnet20}


def make(name: str, widths: Sequence[int] = ()) -> nn.Module:
    """`widths`: of an MLP."""
    if widths:
        return mlp(widths)
    return SMALL[name]() if name in SMALL else published(name)
