"""The WGAN-GP step of the textbooks against this project's, on one device.

    python -m benchmarks.step                                  the tables of docs/performance.md
    python -m benchmarks.step --networks dcgan --resolutions 64 --rounds 9
    python -m benchmarks.step --training                       what a real training keeps of the bare step's rate

`cases` names what is computed, `textbook` computes it as tutorials do, `modes` as this project does, `counting` knows
the floor, `race` checks and times, `report` tells, and `training` measures real trainings.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, as train.py does
