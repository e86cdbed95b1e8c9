"""Attack a PyTorch classifier that this project did not define, with weights of its own in a file beside it.

    pip install 'jigsaw[torch]'
    python examples/torch_classifier.py
    jigsaw create torch \\
        --set train=torch:examples/torch_classifier.py:pretrained \\
        --set tune=mobilenet@1 --set report=mobilenet
    mpiexec -n 2 python -m study.worker --study torch --n-trials 10

The second line trains the network below on the photographs of `patches`, half a minute on one core, and
writes torch_classifier.pt. Yours is trained already: all a study needs is a function without arguments that
returns a torch.nn.Module from images in [0, 1] to logits. What such a network expects beyond that, such as
normalised images, is the module's own business.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

WEIGHTS = Path(__file__).with_suffix(".pt")


class Normalize(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class BasicBlock(nn.Module):
    def __init__(self, inplanes, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            shortcut = nn.Conv2d(inplanes, planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(planes))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + identity)


class ResNet(nn.Module):
    def __init__(self, num_classes=10, width=16):
        super().__init__()
        self.normalize = Normalize((0.47, 0.47, 0.47), (0.22, 0.22, 0.22))
        self.conv1 = nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = BasicBlock(width, width)
        self.layer2 = BasicBlock(width, 2 * width, stride=2)
        self.layer3 = BasicBlock(2 * width, 4 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def pretrained():
    """What the study calls."""
    if not WEIGHTS.is_file():
        raise FileNotFoundError(f"{WEIGHTS} is missing: run python {__file__} first")
    model = ResNet()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model


def train(model, images, labels, epochs, batch_size=64, lr=4e-3):
    optimizer = torch.optim.Adam(model.parameters(), lr)
    steps = epochs * (len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(batch_size)[: len(images) // batch_size]:
            x = images[index]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))
            x = (x + 0.16 * torch.rand(len(x), 3, 1, 1) - 0.08).clamp(0, 1)  # casts of colour
            loss = nn.functional.cross_entropy(model(x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model, images, labels):
    model.eval()
    answers = torch.cat([model(part).argmax(1) for part in images.split(100)])
    return (answers == labels).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description="Train the classifier that the study attacks.")
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs
    from objectives.data import load  # the images; any others would do

    data = load("patches")
    train_set, tune = (
        (torch.tensor(s.images) / 255, torch.tensor(s.labels).long())
        for s in (data.train, data.tune)
    )
    torch.manual_seed(0)
    model = ResNet(len(data.classes))
    train(model, *train_set, epochs)
    torch.save(model.state_dict(), WEIGHTS)
    print(f"{WEIGHTS}: accuracy {accuracy(model, *tune):.2f} on tune images")


if __name__ == "__main__":
    main()
