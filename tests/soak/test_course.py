"""The plan of faults, and what is made of measurements."""

import types
import unittest

from .command import is_flat
from .meter import MIB, Meter, Sample, slope
from .plan import ENDING, LASTING, draw


class Plan(unittest.TestCase):
    def test_the_gateway_is_ended_in_the_first_third_only_and_then_all_other_faults_come(self):
        for seed in range(50):
            for count in (2, 3, 14, 119):
                kinds, early, warm = draw(seed, count)
                self.assertEqual(len(kinds), count)
                self.assertTrue(set(kinds[early:]) <= set(LASTING))
                self.assertLessEqual(early, max(count / 3, 2))
                self.assertTrue(set(ENDING[:early]) <= set(kinds[:early]))
                if early < count:
                    self.assertEqual(kinds[early], "full")
                if warm <= count:
                    self.assertEqual(set(kinds[early:warm]), set(LASTING))

    def test_a_seed_draws_the_same_again_and_another_does_not(self):
        self.assertEqual(draw(1, 119), draw(1, 119))
        self.assertNotEqual(draw(1, 119), draw(2, 119))


class Measurements(unittest.TestCase):
    def meter(self, samples):
        meter = Meter(types.SimpleNamespace(pid=None))
        meter.samples = [Sample(life, at_s, int(mib * MIB), int(mib * MIB / 2), 30, at_rest) for life, at_s, mib, at_rest in samples]
        return meter

    def test_the_slope_is_that_of_the_line(self):
        self.assertEqual(slope([0, 1, 2], [5, 7, 9]), 2)
        self.assertEqual(slope([0, 1, 2, 3], [1, 2, 2, 1]), 0)

    def test_growth_is_that_of_the_longest_life_at_rest_behind_its_warm_up(self):
        early = [(1, at, 50 + at, True) for at in range(0, 100)]
        warm = [(2, at, at, True) for at in range(100, 400)]
        judged = [(2, at, 20 + 3 * at / 3600 + (0 if at % 10 else 7), at % 10 != 0) for at in range(400, 1400)]
        found = self.meter(early + warm + judged).slopes(400)
        self.assertEqual((found["life"], found["from_s"], found["is_judged"]), (2, 401, True))
        self.assertAlmostEqual(found["rss_mib_per_hour"], 3, 2)
        self.assertAlmostEqual(found["anonymous_mib_per_hour"], 1.5, 2)
        self.assertEqual(found["descriptors_per_hour"], 0)

    def test_a_short_run_is_not_judged(self):
        found = self.meter([(1, at, 20, True) for at in range(500)]).slopes(None)
        self.assertFalse(found["is_judged"])
        self.assertIsNone(self.meter([]).slopes(None))

    def test_one_socket_more_is_not_flat_and_one_segment_more_is(self):
        before = {"socket": 20, "file": 5}
        self.assertTrue(is_flat(before, {"socket": 20, "file": 6}))
        self.assertFalse(is_flat(before, {"socket": 21, "file": 5}))
        self.assertFalse(is_flat(before, {"socket": 20, "file": 8}))
        self.assertFalse(is_flat(before, {"socket": 20, "file": 5, "pipe": 1}))


if __name__ == "__main__":
    unittest.main()
