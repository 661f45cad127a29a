"""Medians, verdicts, gates."""

import types
import unittest
from unittest import mock

from harness import figures, report
from harness.catalogue import SCENARIOS
from harness.command import lacking
from harness.peer import Nginx
from harness.run import carriers, fitted, resolved
from harness.scenario import Case, Scenario, Share, Target, gates, later_than, ratio
from harness.subject import Floor, Gateway


def row(subject: str, cpu_us: float, **more) -> dict:
    return {"scenario": "s", "case": "c", "subject": subject, "repeat": 0, "failed": [], "cpu_us": cpu_us, **more}


class Medians(unittest.TestCase):
    def test_they_are_of_the_good_trials_alone(self):
        found = figures.medians([row("a", 1.0), row("a", 9.0), row("a", 2.0), {"subject": "a", "failed": ["lost"]}])
        self.assertEqual((found["cpu_us"], found["spread"]), (2.0, 4.0))

    def test_a_figure_that_one_trial_lacks_is_left_out(self):
        self.assertNotIn("wakes", figures.medians([row("a", 1, wakes=1), row("a", 1)]))

    def test_latencies_are_medians_by_percentile(self):
        trial = lambda p50: row("a", 1, receiver={"latency_us": {"count": 5, "p50": p50, "p99": 9, "p999": 9, "max": 9}})
        self.assertEqual(figures.medians([trial(3), trial(1), trial(2)])["latency_us"]["p50"], 2)

    def test_what_a_peer_lost_is_kept_as_a_remark(self):
        self.assertEqual(figures.medians([row("a", 1, remarks=["3 lost"]), row("a", 1, remarks=["3 lost"])])["remarks"], ["3 lost"])

    def test_subjects_stay_in_the_order_in_which_they_ran(self):
        self.assertEqual(list(figures.by_subject([row("z", 1), row("a", 1), row("z", 1)])), ["z", "a"])


class Verdicts(unittest.TestCase):
    def judge(self, target, rows, missing=()):
        return figures.judge(target, figures.by_subject(rows), dict(missing))

    def test_a_bound_is_reached_or_missed_at_its_very_value(self):
        rows = [row("floor", 10.0), row("gateway", 11.0)]
        self.assertEqual(self.judge(Target("", ratio("floor"), most=1.1), rows)["verdict"], "reached")
        self.assertEqual(self.judge(Target("", ratio("floor"), most=1.09), rows)["verdict"], "MISSED")
        self.assertEqual(self.judge(Target("", ratio("gateway", "floor"), least=0.95), rows)["verdict"], "MISSED")

    def test_what_was_not_measured_is_never_reached(self):
        self.assertEqual(self.judge(Target("", ratio("floor"), most=9), [row("gateway", 1)])["verdict"], "not measured")
        failed = [{"subject": "gateway", "failed": ["lost"]}, row("floor", 1)]
        self.assertEqual(self.judge(Target("", ratio("floor"), most=9), failed)["verdict"], "not measured")

    def test_a_missing_peer_is_named(self):
        target = Target("", ratio("nginx"), most=9, needs=("nginx",))
        verdict = self.judge(target, [row("gateway", 1)], {"nginx": "missing: apt-get install nginx-light"})
        self.assertEqual((verdict["figure"], verdict["verdict"]), (None, "missing: apt-get install nginx-light"))

    def test_a_percentile_is_judged_against_the_better_proxy(self):
        late = lambda name, p50: row(name, 1, receiver={"latency_us": {"count": 1, "p50": p50, "p99": 1, "p999": 1, "max": 1}})
        rows = [late("gateway", 90), late("nginx", 100), late("haproxy", 120)]
        self.assertAlmostEqual(self.judge(Target("", later_than("latency_us", "p50", "nginx", "haproxy"), most=1), rows)["figure"], 0.9)

    def test_pairs_are_judged_by_the_median_of_their_ratios(self):
        pairs = enumerate(((10, 10), (22, 20), (3, 1)))
        rows = [row(name, cost, repeat=at) for at, costs in pairs for name, cost in zip(("gateway", "blind"), costs)]
        target = Target("", ratio("blind"), most=1.03)
        self.assertAlmostEqual(self.judge(target, rows)["figure"], 1.1)
        self.assertEqual(self.judge(target, [row("gateway", 1), row("blind", 1, repeat=1)])["verdict"], "not measured")


class Gates(unittest.TestCase):
    def test_each_counter_of_each_gateway_is_judged_but_not_of_a_blind_one(self):
        case = Case("c", (Floor("floor", "tcp", True), Gateway(), Gateway("blind", blind=True)), depth=8)
        self.assertEqual(len(gates(case)), 5)
        self.assertEqual({name for gate in gates(case) for name in gate.needs}, {"gateway"})

    def test_records_a_send_are_judged_at_depth_8_alone(self):
        texts = lambda case: [gate.text for gate in gates(case) if "a send" in gate.text]
        self.assertEqual((len(texts(Case("c", (Gateway(),), depth=8))), texts(Case("c", (Gateway(),)))), (1, []))

    def test_a_gate_is_missed_by_one_wake_too_many_and_by_no_figure(self):
        scenario = Scenario("s", "work", (Case("c", (Gateway(),)),))
        good = row("gateway", 1, wakes=0.1, enters=0.3, journal_writes=0.001, enobufs=0)
        verdicts = lambda one: {v["verdict"] for v in report.verdicts_of(scenario, [one], {})["c"]}
        self.assertEqual(verdicts(good), {"reached"})
        self.assertEqual(verdicts({**good, "wakes": 1.1}), {"reached", "MISSED"})
        self.assertEqual(verdicts(row("gateway", 1)), {"not measured"})

    def test_a_gate_of_what_is_not_built_is_not_asked(self):
        scenario = Scenario("s", "work", (Case("c", (Gateway("gateway, levers", levers=True), Floor("f", "tcp", True))),))
        self.assertEqual(report.verdicts_of(scenario, [row("f", 1)], {"gateway, levers": "not built"})["c"], [])


class Cases(unittest.TestCase):
    class Options:
        no_peers, peer = False, []

    def test_peers_take_part_if_they_are_there_and_wanted(self):
        case, options = Case("c", (Gateway(),), (Nginx(),)), self.Options()
        names = lambda missing: [one.name for one in carriers(case, options, missing)]
        self.assertEqual((names({}), names({"nginx": "missing"})), (["gateway", "nginx"], ["gateway"]))
        options.no_peers, options.peer = True, ["mine=run {machines}"]
        self.assertEqual(names({}), ["gateway", "mine"])

    def test_a_missing_peer_ends_a_run_unless_it_is_left_out_or_only_smoked(self):
        scenario = Scenario("s", "work", (Case("c", (Gateway(),), (Nginx(),)),))
        options = lambda **given: types.SimpleNamespace(**{"no_peers": False, "smoke": False, **given})
        with mock.patch.object(Nginx, "missing", lambda self: "apt-get install nginx-light"):
            with self.assertRaisesRegex(SystemExit, "nginx .*apt-get install nginx-light"):
                lacking([scenario], options())
            self.assertEqual(lacking([scenario], options(smoke=True)), {"nginx": "missing: apt-get install nginx-light"})
            self.assertEqual(lacking([scenario], options(no_peers=True)), {"nginx": "left out"})
        with mock.patch.object(Nginx, "missing", lambda self: ""):
            self.assertEqual(lacking([scenario], options()), {})

    def test_a_rate_is_a_share_of_what_an_earlier_case_reached(self):
        case = Case("d", (), rate=Share("c", "gateway", 0.5))
        rows = [row("gateway", 1, records_per_s=throughput) for throughput in (900, 1000, 5000)]
        self.assertEqual(resolved(case, rows).rate, 500)
        self.assertEqual(resolved(case, []).rate, 1)

    def test_with_fewer_ptys_each_keeps_its_rate(self):
        case = fitted(Case("c", (), source="ports", machines=10_000, rate=10_000), 4_000)
        self.assertEqual((case.machines, case.rate), (4_000, 4_000))
        self.assertEqual(fitted(Case("c", (), machines=10_000), 0).machines, 10_000)

    def test_names_are_unique_and_every_target_has_a_bound(self):
        cases = [case for scenario in SCENARIOS for case in scenario.cases]
        self.assertEqual(len({case.name for case in cases}), len(cases))
        for target in (target for one in (*SCENARIOS, *cases) for target in one.targets):
            self.assertNotEqual((target.most, target.least), (None, None), target.text)
        for case in cases:
            names = [one.name for one in (*case.subjects, *case.peers)]
            self.assertEqual(len(set(names)), len(names), case.name)


if __name__ == "__main__":
    unittest.main()
