"""The backbones in PyTorch, written independently of ours, with the names of published weights."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional


class Bottleneck(nn.Module):
    def __init__(self, inputs, filters, stride):
        super().__init__()
        outputs = 4 * filters
        self.conv1 = nn.Conv2d(inputs, filters, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv3 = nn.Conv2d(filters, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def resnet50():
    def layer(inputs, filters, blocks, stride):
        rest = [Bottleneck(4 * filters, filters, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Bottleneck(inputs, filters, stride), *rest)

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, 2, padding=1),
            layer1=layer(64, 64, 3, 1),
            layer2=layer(256, 128, 4, 2),
            layer3=layer(512, 256, 6, 2),
            layer4=layer(1024, 512, 3, 2),
        )
    )


def unit(inputs, outputs, size=1, stride=1):
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
            bn=nn.BatchNorm2d(outputs, eps=0.001),
            relu=nn.ReLU(),
        )
    )


class Branches(nn.ModuleDict):
    def forward(self, x):
        return torch.cat([branch(x) for branch in self.values()], dim=1)


def googlenet():
    def pair(inputs, reduced, outputs):
        return nn.Sequential(unit(inputs, reduced), unit(reduced, outputs, 3))

    def inception(inputs, one, three_reduced, three, five_reduced, five, pooled):
        pool = nn.MaxPool2d(3, 1, padding=1)
        return Branches(
            {
                "branch1": unit(inputs, one),
                "branch2": nn.Sequential(
                    unit(inputs, three_reduced), unit(three_reduced, three, 3)
                ),
                "branch3": nn.Sequential(unit(inputs, five_reduced), unit(five_reduced, five, 3)),
                "branch4": nn.Sequential(pool, unit(inputs, pooled)),
            }
        )

    return nn.Sequential(
        OrderedDict(
            conv1=unit(3, 64, 7, 2),
            maxpool1=nn.MaxPool2d(3, 2, ceil_mode=True),
            conv2=unit(64, 64),
            conv3=unit(64, 192, 3),
            maxpool2=nn.MaxPool2d(3, 2, ceil_mode=True),
            inception3a=inception(192, 64, 96, 128, 16, 32, 32),
            inception3b=inception(256, 128, 128, 192, 32, 96, 64),
            maxpool3=nn.MaxPool2d(3, 2, ceil_mode=True),
            inception4a=inception(480, 192, 96, 208, 16, 48, 64),
            inception4b=inception(512, 160, 112, 224, 24, 64, 64),
            inception4c=inception(512, 128, 128, 256, 24, 64, 64),
            inception4d=inception(512, 112, 144, 288, 32, 64, 64),
            inception4e=inception(528, 256, 160, 320, 32, 128, 128),
            maxpool4=nn.MaxPool2d(2, 2, ceil_mode=True),
            inception5a=inception(832, 256, 160, 320, 32, 128, 128),
            inception5b=inception(832, 384, 192, 384, 48, 128, 128),
        )
    )


class BNInception(nn.Module):
    # Of each block the filters 1x1; 3x3_reduce, 3x3; double_3x3_reduce, _1, _2; pool_proj.
    blocks = (
        ("3a", (64, 64, 64, 64, 96, 96, 32), "average"),
        ("3b", (64, 64, 96, 64, 96, 96, 64), "average"),
        ("3c", (None, 128, 160, 64, 96, 96, None), "halve"),
        ("4a", (224, 64, 96, 96, 128, 128, 128), "average"),
        ("4b", (192, 96, 128, 96, 128, 128, 128), "average"),
        ("4c", (160, 128, 160, 128, 160, 160, 128), "average"),
        ("4d", (96, 128, 192, 160, 192, 192, 128), "average"),
        ("4e", (None, 128, 192, 192, 256, 256, None), "halve"),
        ("5a", (352, 192, 320, 160, 224, 224, 128), "average"),
        ("5b", (352, 192, 320, 192, 224, 224, 128), "maximum"),
    )

    def __init__(self):
        super().__init__()
        self.add("conv1_7x7_s2", 3, 64, 7, 2)
        self.add("conv2_3x3_reduce", 64, 64, 1)
        self.add("conv2_3x3", 64, 192, 3)
        inputs = 192
        for name, (one, reduced, three, double_reduced, *double, projected), pool in self.blocks:
            prefix, stride = f"inception_{name}_", 2 if pool == "halve" else 1
            self.add(f"{prefix}3x3_reduce", inputs, reduced, 1)
            self.add(f"{prefix}3x3", reduced, three, 3, stride)
            self.add(f"{prefix}double_3x3_reduce", inputs, double_reduced, 1)
            self.add(f"{prefix}double_3x3_1", double_reduced, double[0], 3)
            self.add(f"{prefix}double_3x3_2", double[0], double[1], 3, stride)
            if pool == "halve":
                inputs += three + double[1]
                continue
            self.add(f"{prefix}1x1", inputs, one, 1)
            self.add(f"{prefix}pool_proj", inputs, projected, 1)
            inputs = one + three + double[1] + projected

    def add(self, name, inputs, outputs, size, stride=1):
        self.add_module(name, nn.Conv2d(inputs, outputs, size, stride, padding=size // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def layer(self, name, x):
        modules = dict(self.named_modules())
        return torch.relu(modules[f"{name}_bn"](modules[name](x)))

    def forward(self, x):
        def halve(x):
            return functional.max_pool2d(x, 3, 2, ceil_mode=True)

        x = halve(self.layer("conv1_7x7_s2", x))
        x = halve(self.layer("conv2_3x3", self.layer("conv2_3x3_reduce", x)))
        for name, _, pool in self.blocks:
            prefix = f"inception_{name}_"
            three = self.layer(f"{prefix}3x3", self.layer(f"{prefix}3x3_reduce", x))
            double = self.layer(f"{prefix}double_3x3_reduce", x)
            double = self.layer(f"{prefix}double_3x3_1", double)
            double = self.layer(f"{prefix}double_3x3_2", double)
            if pool == "halve":
                x = torch.cat([three, double, halve(x)], dim=1)
                continue
            if pool == "average":
                pooled = functional.avg_pool2d(x, 3, 1, padding=1)
            else:
                pooled = functional.max_pool2d(x, 3, 1, padding=1)
            one = self.layer(f"{prefix}1x1", x)
            projected = self.layer(f"{prefix}pool_proj", pooled)
            x = torch.cat([one, three, double, projected], dim=1)
        return x


def randomised(module):
    """The module in evaluation, with random weights and statistics that keep maps in bounds."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.ndim == 4:
            deviation = (2 / tensor[0].numel()) ** 0.5
            tensor.normal_(0, deviation, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=generator)
        elif not name.endswith("num_batches_tracked"):
            tensor.uniform_(0.5, 1.5, generator=generator)
    return module.eval()
