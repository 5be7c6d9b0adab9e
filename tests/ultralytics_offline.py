"""The real Ultralytics, without a network."""

import importlib.util
import os

import pytest


def ultralytics(folder):
    """Import it, or skip the test.

    Args:
        folder: For its settings.
    """
    for name in ("ultralytics", "torchvision", "cv2"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    os.environ.setdefault("YOLO_CONFIG_DIR", str(folder))
    os.environ.setdefault("MPLCONFIGDIR", str(folder))
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    import ultralytics

    return ultralytics
