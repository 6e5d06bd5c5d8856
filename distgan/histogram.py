"""The cells in which the gradient norms of the critic are counted: the same for all runs, so that they can be laid on
each other."""

from __future__ import annotations

OF_AN_OCTAVE, HALF = 8, 32
"""Cells of a doubling, and cells on each side of 1."""

EDGES = tuple(2.0 ** (i / OF_AN_OCTAVE) for i in range(-HALF, HALF + 1))
"""65 norms from 1/16 to 16, each 9 % above the one before; 1, which WGAN-GP asks for, is the one in the middle."""

CELLS = len(EDGES) + 1
"""What lies below the first edge, what lies from each edge to the next, and what lies at or above the last one."""
