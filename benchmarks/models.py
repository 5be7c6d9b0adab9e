"""Parameter sets: the shapes of real networks, written out by formula."""

from __future__ import annotations

from collections.abc import Callable

Shape = tuple[int, ...]


def gpt2() -> list[Shape]:
    """GPT-2 small with its head tied to the embedding: 148 tensors, 124 439 808 elements."""
    width, layers = 768, 12
    norm: list[Shape] = [(width,), (width,)]

    def linear(inputs: int, outputs: int) -> list[Shape]:
        return [(inputs, outputs), (outputs,)]

    attention = linear(width, 3 * width) + linear(width, width)
    feed_forward = linear(width, 4 * width) + linear(4 * width, width)
    block = norm + attention + norm + feed_forward
    return [(50257, width), (1024, width), *(block * layers), *norm]


def _conv_norm(inputs: int, outputs: int, size: int) -> list[Shape]:
    return [(outputs, inputs, size, size), (outputs,), (outputs,)]


def resnet50() -> list[Shape]:
    """ResNet-50 with 1000 classes: 161 tensors, 25 557 032 elements."""
    shapes = _conv_norm(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += _conv_norm(inputs, width, 1) + _conv_norm(width, width, 3)
            shapes += _conv_norm(width, 4 * width, 1)
            shapes += _conv_norm(inputs, 4 * width, 1) if block == 0 else []
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def _c2f(inputs: int, outputs: int, blocks: int) -> list[Shape]:
    hidden = outputs // 2
    shapes = _conv_norm(inputs, outputs, 1) + _conv_norm((2 + blocks) * hidden, outputs, 1)
    return shapes + _conv_norm(hidden, hidden, 3) * (2 * blocks)


def _detect(inputs: int, boxes: int = 64, classes: int = 80) -> list[Shape]:
    shapes: list[Shape] = []
    for width, outputs in ((64, boxes), (80, classes)):
        shapes += _conv_norm(inputs, width, 3) + _conv_norm(width, width, 3)
        shapes += [(outputs, width, 1, 1), (outputs,)]
    return shapes


def yolov8n() -> list[Shape]:
    """A detector shaped like YOLOv8n with 80 classes: 183 tensors, 3 157 184 elements."""
    shapes = _conv_norm(3, 16, 3)
    for inputs, outputs, blocks in ((16, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 1)):
        shapes += _conv_norm(inputs, outputs, 3) + _c2f(outputs, outputs, blocks)
    shapes += _conv_norm(256, 128, 1) + _conv_norm(512, 256, 1)  # pyramid pooling
    shapes += _c2f(384, 128, 1) + _c2f(192, 64, 1)  # the neck, upwards
    shapes += _conv_norm(64, 64, 3) + _c2f(192, 128, 1)  # and down again
    shapes += _conv_norm(128, 128, 3) + _c2f(384, 256, 1)
    return shapes + _detect(64) + _detect(128) + _detect(256)


def conv160() -> list[Shape]:
    """80 convolutions with their biases, 5 million elements: for the cold first step."""
    shapes: list[Shape] = []
    for index in range(80):
        width = 64 + 16 * (index % 4)
        shapes += [(width, width, 3, 3), (width,)]
    return shapes


def yolo126() -> list[Shape]:
    """126 matrices of detectors shaped like YOLOv8n: convolutions as (out, in * height * width)."""
    convolutions = [s for s in yolov8n() * 3 if len(s) == 4]
    return [(s[0], s[1] * s[2] * s[3]) for s in convolutions[:126]]


SETS: dict[str, Callable[[], list[Shape]]] = {
    "gpt2": gpt2,
    "resnet50": resnet50,
    "yolov8n": yolov8n,
    "small1000": lambda: [(64, 16)] * 1000,
    "tiny10000": lambda: [(64,)] * 10000,
    "conv160": conv160,
    "matrices1024": lambda: [(1024, 1024)] * 24,
    "yolo126": yolo126,
    "toy": lambda: [(33, 17), (64,), (1,), (5, 3, 3, 3)],  # for the harness's own tests
}

TITLES = {
    "gpt2": "GPT-2 small: 148 tensors, 124M elements",
    "resnet50": "ResNet-50: 161 tensors, 25.6M elements",
    "yolov8n": "YOLOv8n-like: 183 tensors, 3.2M elements",
    "small1000": "1000 tensors of 64x16",
    "tiny10000": "10000 tensors of 64",
    "conv160": "80 convolutions with biases: 160 tensors, 5.4M elements",
    "matrices1024": "24 matrices of 1024x1024",
    "yolo126": "126 matrices of YOLOv8n-like shapes",
    "toy": "four tiny tensors",
}


def elements(shapes: list[Shape]) -> int:
    """Number of elements of all tensors together."""
    total = 0
    for shape in shapes:
        count = 1
        for size in shape:
            count *= size
        total += count
    return total
