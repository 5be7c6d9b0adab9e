"""Write checkpoints of this release into the museum: `PYTHONPATH=src:tests python tests/museum/make.py`.

One file per recipe: the weights and state after some steps, and the weights a few steps later. What is
there is never written again: this release's and every later one's have to load it.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

import recipes
import thalweg

HERE = Path(__file__).parent
STEPS, MORE = 5, 5


def piece(recipe):
    """Train, take the checkpoint, and train on."""
    tensors, optimizer = recipes.begin(recipe)
    recipes.train(recipe, tensors, optimizer, 0, STEPS)
    taken = {
        "recipe": recipe,
        "release": thalweg.__version__,
        "torch": str(torch.__version__),
        "steps": STEPS,
        "shapes": [list(p.shape) for p in tensors],
        "weights": recipes.flat(tensors),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
    }
    recipes.train(recipe, tensors, optimizer, STEPS, MORE)
    return taken | {"later": recipes.flat(tensors)}


def main():
    folder = HERE / thalweg.__version__
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for name, recipe in recipes.recipes().items():
        path = folder / f"{name}.pt"
        if not path.exists():
            thalweg.save(piece(recipe), path)
            print(f"{path.relative_to(HERE)}: {path.stat().st_size:,} bytes")
    total = sum(path.stat().st_size for path in HERE.rglob("*.pt"))
    print(f"in all {total:,} bytes")


if __name__ == "__main__":
    main()
