"""Ultralytics without a network, and with torchvision's NMS where the compiled one cannot load.

PyPI's torchvision is linked against CUDA, so that on a CPU build of torch its operators do not load. The
tests put a plain NMS in their place; nothing that ships does.
"""

import importlib.util
import os
import sys

import pytest
import torch

HOME = "YOLO_CONFIG_DIR"


def ultralytics(folder):
    """Import the real package, or skip the test."""
    for name in ("ultralytics", "torchvision", "cv2"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    os.environ.setdefault(HOME, str(folder))
    os.environ.setdefault("MPLCONFIGDIR", str(folder))
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    working_torchvision()
    import ultralytics

    return ultralytics


def working_torchvision():
    """Import torchvision; say so where its NMS is substituted."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", plain_nms, "CPU")
    working_torchvision.keep = library  # it is unregistered when it dies
    import torchvision.extension

    torchvision.extension._has_ops = lambda: True
    print("\ntorchvision's compiled operators do not load on this torch: its NMS is substituted")


def plain_nms(boxes, scores, threshold):
    """Greedy non-maximum suppression of (n, 4) corners."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left, kept = scores.argsort(descending=True, stable=True), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[left, :2])
        size = (torch.minimum(boxes[best, 2:], boxes[left, 2:]) - corner).clamp(min=0)
        shared = size[:, 0] * size[:, 1]
        left = left[shared / (area[best] + area[left] - shared) <= threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.int64)
