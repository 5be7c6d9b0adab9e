"""A training script that is killed: every recipe at once, one checkpoint file, SIGKILL at a counted moment.

python killed.py FILE STEPS [WHEN EVENT]: train on from FILE up to STEPS steps, saving after each. With WHEN
("step 3", "save 3") count calls and returns of Python functions from there on, and die at number EVENT.
Without, the numbers of the last step and save are printed.
"""

from __future__ import annotations

import os
import signal
import sys

import torch

import recipes
import thalweg


class Events:
    """Counts what Python calls and returns from, and kills the process at the one that was asked for."""

    def __init__(self, fatal):
        self.fatal, self.count = fatal, 0

    def __call__(self, *_):
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def start(self):
        self.count = 0
        sys.setprofile(self)

    def stop(self):
        sys.setprofile(None)
        return self.count


def load(path, subjects):
    """Give every subject its weights and state back; return the steps that were taken."""
    if not os.path.exists(path):
        return 0
    saved = torch.load(path, weights_only=True)
    for name, (tensors, optimizer) in subjects.items():
        with torch.no_grad():
            for p, x in zip(tensors, saved["weights"][name], strict=True):
                p.copy_(x)
        optimizer.load_state_dict(saved["optimizers"][name])
    return saved["steps"]


def save(path, subjects, steps):
    thalweg.save(
        {
            "steps": steps,
            "weights": {name: list(tensors) for name, (tensors, _) in subjects.items()},
            "optimizers": {name: opt.state_dict() for name, (_, opt) in subjects.items()},
        },
        path,
    )


def main(path, steps, when="", event="0"):
    torch.set_num_threads(1)
    recipe_of = recipes.recipes()
    subjects = {name: recipes.begin(recipe) for name, recipe in recipe_of.items()}
    events, last = Events(int(event)), int(steps) - 1
    watched = ("step", "save") if not when else (when.split()[0],)
    begin = last if not when else int(when.split()[1])
    for t in range(load(path, subjects), int(steps)):
        if t == begin and "step" in watched:
            events.start()
        for name, (tensors, optimizer) in subjects.items():
            recipes.train(recipe_of[name], tensors, optimizer, t, 1)
        if t == begin and "save" in watched:
            if not when:
                print(events.stop())
            events.start()
        save(path, subjects, t + 1)
    print(events.stop())


if __name__ == "__main__":
    main(*sys.argv[1:])
