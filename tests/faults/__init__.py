"""Real faults against the real program; run by scripts/faults. Each module of cases registers its own, in this order."""

from .cases import CASES
from . import kills, power, space, devices, starts, files, blocks, speed, answers, lines  # noqa: F401
