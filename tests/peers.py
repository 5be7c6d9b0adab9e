"""Other people's optimizers, imported so that only what is under test is imported."""

import importlib
import importlib.util
import sys
import types

import pytest


def from_timm(module, cls):
    """Import one of timm's optimizers without timm's models, which drag torchvision in."""
    spec = importlib.util.find_spec("timm")
    if spec is None:
        pytest.skip("timm is not installed")
    package = types.ModuleType("timm_optim_alone")
    package.__path__ = [spec.submodule_search_locations[0] + "/optim"]
    sys.modules.setdefault("timm_optim_alone", package)
    return getattr(importlib.import_module(f"timm_optim_alone.{module}"), cls)


def from_package(package, cls):
    """Import a class of an optional package, or skip."""
    return getattr(pytest.importorskip(package), cls)
