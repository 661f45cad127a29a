"""Real faults against the real program; run by scripts/faults. Each module of cases registers its own, in this order."""

from .cases import CASES
from . import kills, power, space, devices, starts, files, blocks, unread, speed, answers, lines, reserve, proxies, crowds, clients, strict  # noqa: F401
