"""The stand-in for torchvision's NMS: what the definition says, box by box."""

import torch

from ultralytics_offline import plain_nms


def overlap(a, b):
    """Intersection over union of two boxes."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_it_keeps_what_no_better_box_covers():
    torch.manual_seed(0)
    corner, scores = torch.rand(60, 2, dtype=torch.float64), torch.rand(60, dtype=torch.float64)
    boxes = torch.cat([corner, corner + 0.1 + torch.rand(60, 2, dtype=torch.float64) / 2], 1)
    for threshold in (0.9, 0.5, 0.1):
        kept = []
        for i in sorted(range(60), key=lambda i: -scores[i]):
            if all(overlap(boxes[i].tolist(), boxes[j].tolist()) <= threshold for j in kept):
                kept.append(i)
        assert plain_nms(boxes, scores, threshold).tolist() == kept
    assert len(kept) < 60
    assert plain_nms(boxes[:0], scores[:0], 0.5).tolist() == []
