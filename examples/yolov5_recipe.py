"""YOLOv5's recipe around a loop of one's own: find the digit in the picture, and say which it is.

    python examples/yolov5_recipe.py [folder]

Scikit-learn's 1797 handwritten digits, each put somewhere on a 16 x 16 canvas. A small network says in which
of 4 x 4 cells the digit's middle is, and which digit it is. Ten seconds on one core; the same command
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from thalweg.recipe import CSVWriter, Monitor, Recipe, yolov5

EPOCHS, BATCH, HELD_OUT = 10, 16, 360


def pictures() -> tuple[Tensor, Tensor, Tensor]:
    """Return canvases, the cell of each digit, and the digits."""
    data = load_digits()
    digits = torch.tensor(data.images, dtype=torch.float32) / 16.0
    random = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 9, (len(digits), 2), generator=random)
    canvases = 0.1 * torch.rand(len(digits), 1, 16, 16, generator=random)
    for canvas, digit, (row, column) in zip(canvases, digits, corners.tolist(), strict=True):
        canvas[0, row : row + 8, column : column + 8] += digit
    cells = (corners + 4) // 4
    return canvases, cells[:, 0] * 4 + cells[:, 1], torch.tensor(data.target)


def network() -> nn.Module:
    """Convolutions to a grid of 4 x 4 cells: whether the digit is there, and which it is."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 1 + 10, 1), nn.Flatten(2))


def loss_of(out: Tensor, cells: Tensor, digits: Tensor) -> Tensor:
    """A sum over the pictures, as YOLOv5's: the cell, and the digit in the true cell."""
    there = out[torch.arange(len(out)), 1:, cells]
    cross_entropy = nn.functional.cross_entropy
    return cross_entropy(out[:, 0], cells, reduction="sum") + cross_entropy(
        there, digits, reduction="sum"
    )


@torch.no_grad()
def score(model: nn.Module, images: Tensor, cells: Tensor, digits: Tensor) -> float:
    """Share of pictures where cell and digit are right."""
    model.eval()
    out = model(images)
    found = out[:, 0].argmax(1)
    named = out[torch.arange(len(out)), 1:, found].argmax(1)
    model.train()
    return float(((found == cells) & (named == digits)).float().mean())


def train(folder: Path, epochs: int = EPOCHS, stop: int | None = None) -> tuple[Recipe, float]:
    """Train into a folder, or go on there; return the recipe and the average's score."""
    torch.manual_seed(0)
    images, cells, digits = pictures()
    held = images[:HELD_OUT], cells[:HELD_OUT], digits[:HELD_OUT]
    seen = images[HELD_OUT:], cells[HELD_OUT:], digits[HELD_OUT:]
    batches = len(seen[0]) // BATCH
    model = network()
    recipe = yolov5(model, BATCH, epochs, {"lr0": 0.02}, batches=batches)
    log, monitor = CSVWriter(folder / "numbers.csv"), Monitor(recipe.optimizer, every=20)
    if (folder / "last.pt").exists():
        recipe.load(folder / "last.pt")
        monitor.steps = recipe.steps
    for epoch in range(recipe.batch // batches, stop or epochs):
        order = torch.randperm(len(seen[0]), generator=torch.Generator().manual_seed(epoch))
        for chosen in order[: batches * BATCH].view(batches, BATCH):
            with recipe.forward():
                loss = loss_of(model(seen[0][chosen]), seen[1][chosen], seen[2][chosen])
            recipe.step(loss)
        right = score(model, *held)
        with recipe.average.averaged():
            averaged = score(model, *held)
        numbers = {"metrics/weights": right, "metrics/average": averaged}
        log.write(numbers | recipe.learning_rates() | monitor.latest, epoch)
        recipe.save(folder / "last.pt")
        print(f"epoch {epoch}: right {right:.3f}, averaged {averaged:.3f}, steps {recipe.steps}")
    with recipe.average.averaged():
        return recipe, score(model, *held)


def main() -> None:
    """Read the command line, train, and tell the score."""
    parser = argparse.ArgumentParser(description="Train YOLOv5's recipe on handwritten digits.")
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("runs/yolov5_recipe"),
        help="where to train, or to go on (default: %(default)s)",
    )
    _, right = train(parser.parse_args().folder)
    print(f"of the pictures that were held out the averaged weights have {right:.3f} right")


if __name__ == "__main__":
    main()
