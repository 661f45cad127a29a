"""Which fault when, by seed."""

import random

# Those that end the gateway, and with it what can be said about its memory.
ENDING = ("kill", "stop")
LASTING = ("full", "down", "503", "400", "429", "reset", "drip", "reload", "reload-changed", "reload-broken", "machine", "unplug",
           "stuck", "200", "retry-after", "dead-names", "flood")
# Of all faults, the part in which the gateway is ended at times; then one process lives to the end.
ENDING_PART = 1 / 3


def draw(seed, count):
    """(kinds, early, warm): `count` faults; the place from which on nothing ends the gateway; and the one from which on each of the lasting
    ones has been there in that last life.

    In the first third all kinds come, kills and stops three times as often as the others and each at least once (if there are two
    places). The rest are rounds of all lasting kinds, each round in an order of its own; the first begins with a full journal, which
    touches all memory that the gateway may have.
    """
    rng = random.Random(seed)
    early = max(min(2, count // 2), int(count * ENDING_PART))
    kinds = []
    while len(kinds) < early:
        kinds += shuffled(rng, LASTING + ENDING * 3)
    kinds = kinds[:early]
    wanted = ENDING[:early]
    for kind in wanted:
        if kind not in kinds:
            kinds[rng.choice([index for index, other in enumerate(kinds) if other not in wanted or kinds.count(other) > 1])] = kind
    while len(kinds) < count:
        own = shuffled(rng, LASTING)
        if len(kinds) == early:
            own.remove("full")
            own.insert(0, "full")
        kinds += own
    return kinds[:count], early, early + len(LASTING)


def shuffled(rng, kinds):
    return rng.sample(kinds, len(kinds))
