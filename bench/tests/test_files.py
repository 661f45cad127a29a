"""What is written and read: configurations, tables, the plot, the kernel's limit."""

import tempfile
import tomllib
import types
import unittest
from unittest import mock
import xml.etree.ElementTree
from pathlib import Path

from harness import plot, readme, report
from harness.catalogue import SCENARIOS
from harness.peer import CommandPeer, Haproxy, Nginx, SyslogNg
from harness.process import Sample, between
from harness.ptys import Ptys
from harness.scenario import Case
from harness.subject import Gateway
from harness.trial import Trial, per_record

MACHINE = {
    "began": "2026-01-02T03:04:05+00:00", "cpu": "A <CPU>", "cpus": 2, "virtual": True, "kernel": "6.18", "commit": "0123456789abcdef",
    "changed": False, "repeats": 3, "seconds": 5, "missing": {"haproxy": "missing: apt-get install haproxy"},
}


def row(scenario: str, subject: str, cpu_us: float, **more) -> dict:
    common = {"records_per_s": 1e6 / cpu_us, "cpu_us": cpu_us, "user_us": 0.5, "system_us": cpu_us - 0.5, "failed": [], "remarks": []}
    return {"scenario": scenario, "case": scenario, "subject": subject, "repeat": 0, **common, **more}


ROWS = [
    row("http-post", "POST in + POST out", 10.0), row("http-post", "gateway", 11.0, wakes=0.1, enters=0.2, journal_writes=0.001, enobufs=0.0),
    row("http-post", "nginx", 33.0, remarks=["7 missing"]),
]


class Tables(unittest.TestCase):
    def test_a_recorded_run_gives_the_same_summary_again(self):
        with tempfile.TemporaryDirectory() as directory:
            text = report.summary(MACHINE, SCENARIOS, ROWS)
            report.begin_run(Path(directory), MACHINE)
            for one in ROWS:
                report.append_row(Path(directory), one)
            machine, rows = report.read_run(Path(directory))
            self.assertEqual(report.summary(machine, SCENARIOS, rows), text)
        for wanted in ("nginx: 7 missing", "haproxy: missing: apt-get install haproxy", "3.000", "reached"):
            self.assertIn(wanted, text)

    def test_the_readme_gets_what_is_between_the_markers_and_keeps_the_rest(self):
        text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
        once = readme.replaced(text, readme.section(Path("run"), MACHINE, ROWS, SCENARIOS))
        self.assertTrue(once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once)
        self.assertIn("| records per CPU second ≥ 1.5 × nginx ", once)
        self.assertEqual(readme.replaced(once, "x"), readme.replaced(text, "x"))
        with self.assertRaises(ValueError):
            readme.replaced("no markers", "x")

    def test_both_readmes_have_the_markers(self):
        for root in Path(readme.__file__).parents[1:3]:
            readme.replaced((root / "README.md").read_text(), "x")

    def test_the_headline_sets_the_gateway_beside_all_others(self):
        text = readme.headline(Path("run"), MACHINE, ROWS, SCENARIOS)
        wanted = "1,000 HTTP machines, a POST for each record | 90,909    | 11.00           | floor: POST in + POST out 10; nginx 33"
        self.assertIn(wanted, text)


class Plot(unittest.TestCase):
    def test_bars_are_sorted_in_proportion_and_the_markup_is_valid(self):
        root = xml.etree.ElementTree.fromstring(plot.svg(MACHINE, ROWS))
        bars = {one.get("class"): float(one.get("width")) for one in root.iter("{http://www.w3.org/2000/svg}rect")}
        self.assertEqual(list(bars), ["floor", "gateway", "peer"])
        self.assertAlmostEqual(bars["gateway"] / bars["peer"], 3, places=2)
        self.assertIn("30,300", "".join(root.itertext()))

    def test_a_value_has_three_digits(self):
        self.assertEqual([plot.rounded(value) for value in (1_234_567.8, 90_909, 999.4, 12.3)], ["1,230,000", "90,900", "999", "12"])


class Configurations(unittest.TestCase):
    def trial(self, directory: str, **case):
        where = Path(directory)
        case = Case("c", (), **case)
        return types.SimpleNamespace(
            case=case, directory=where, state=where / "state", ports=where / "ports", machines_at=1001, receiver_at=1002, admin_at=1003,
            subject_cpus={3, 1},
        )

    def test_the_gateways_are_valid_toml_and_say_what_they_were_asked_for(self):
        with tempfile.TemporaryDirectory() as directory:
            plain = tomllib.loads(Gateway().config(self.trial(directory)))
            self.assertNotIn("sequence", plain)
            self.assertEqual(plain["gateway"]["cores"], [1, 3])
            self.assertEqual((plain["journal"]["durability"], plain["deliver"]["connections"]), ("process", 64))
            leased = tomllib.loads(Gateway(ids=True, lease=100).config(self.trial(directory)))
            self.assertEqual((leased["sequence"]["lease"], leased["sequence"]["count_at"]), (100, "/count"))
            self.assertIn("{{id}}", leased["deliver"]["body"])
            batch = tomllib.loads(Gateway(batch=100, durability="power").config(self.trial(directory, source="http", depth=8)))
            self.assertEqual((batch["deliver"]["batch"]["records"], batch["deliver"]["pipeline"]), (100, 8))
            self.assertEqual((batch["journal"]["durability"], batch["source"][0]["kind"]), ("power", "http"))
            levers = tomllib.loads(Gateway(levers=True).config(self.trial(directory)))
            self.assertEqual((levers["gateway"]["min_wait"], levers["source"][0]["quick_ack"]), ("250us", False))
            ports = tomllib.loads(Gateway().config(self.trial(directory, source="ports", machines=3)))
            self.assertEqual([one["kind"] for one in ports["source"]], ["serial"] * 3)

    def test_no_name_stays_open_in_a_peers_configuration(self):
        with tempfile.TemporaryDirectory() as directory:
            trial = self.trial(directory)
            # It need not be installed.
            with mock.patch.object(SyslogNg, "config_version", return_value="3.38"):
                SyslogNg(100, disk=True).command(trial)
            for peer in (Nginx(), Haproxy()):
                peer.command(trial)
            for name in ("nginx.conf", "haproxy.cfg", "syslog-ng.conf"):
                text = (Path(directory) / name).read_text()
                self.assertIn("1001", text)
                self.assertNotRegex(text.replace("@version:", ""), r"@\w+@")

    def test_a_peer_of_the_user_gets_its_ports(self):
        with tempfile.TemporaryDirectory() as directory:
            command = CommandPeer("mine", "run 'a b' {machines} {receiver} {url}").command(self.trial(directory))
        self.assertEqual(command, ["run", "a b", "1001", "1002", "http://127.0.0.1:1002/films/"])


class Ptys_(unittest.TestCase):
    def files(self, directory: str, most: int, used: int) -> Path:
        for name, value in (("max", most), ("reserve", 1024), ("nr", used)):
            (Path(directory) / name).write_text(f"{value}\n")
        return Path(directory)

    def test_the_limit_is_raised_and_put_back_whatever_happens(self):
        with tempfile.TemporaryDirectory() as directory:
            files = self.files(directory, 4096, 10)
            with self.assertRaises(KeyboardInterrupt), Ptys(10_000, files) as most:
                self.assertEqual(((files / "max").read_text(), most), ("12000", 12_000 - 1024 - 10 - 64))
                raise KeyboardInterrupt
            self.assertEqual(int((files / "max").read_text()), 4096)

    def test_a_limit_that_is_high_enough_is_left_alone(self):
        with tempfile.TemporaryDirectory() as directory:
            files = self.files(directory, 4096, 10)
            with Ptys(500, files):
                self.assertEqual((files / "max").read_text(), "4096\n")


class Accounts(unittest.TestCase):
    def test_threads_that_come_later_are_counted_from_nothing(self):
        first = Sample(0, {1: 1_000_000}, 0, 0, {1: (0, 0)}, 0, 0)
        last = Sample(2, {1: 3_000_000, 2: 500_000}, 3, 1, {1: (5, 1), 2: (1, 0)}, 7, 0)
        cost = between(first, last)
        self.assertEqual((cost.cpu_us, cost.user_us, cost.voluntary, cost.seconds), (2500, 1875, 6, 2))

    def test_counters_are_by_record_delivered(self):
        after = {"records": 100, "wakes": 10, "api_sends": 20, "enters": 50, "rejected": 3}
        found = per_record({"records": 0}, after)
        self.assertEqual((found["wakes"], found["enters"], found["records_per_send"], found["counted"]), (0.1, 0.5, 5, {"rejected": 3}))
        self.assertEqual(per_record(after, after), {})

    def faults(self, load: dict, receiver: dict, **case) -> list[str]:
        trial = Trial(Case("c", (), **case), Gateway(), types.SimpleNamespace(smoke=False))
        whole = {"doubled": 0, "corrupt": 0, "missing": 0, "malformed": 0, "disordered": 0}
        return trial._faults({"load": {"lost": 0, "sent": 5, "arrived": 5, **load}, "receiver": {**whole, **receiver}, "records": 5})

    def test_each_loss_is_told(self):
        self.assertEqual(self.faults({}, {}), [])
        self.assertEqual(self.faults({"arrived": 3}, {}), ["2 of 5 records did not arrive"])
        self.assertEqual(self.faults({"lost": 1}, {"doubled": 2, "disordered": 4}), ["1 machines lost their connection", "2 doubled", "4 out of order"])
        self.assertEqual(self.faults({"accepted": 2}, {}, source="http", rate=9, machines=2), ["3 of 5 requests were not answered"])

    def test_connections_of_idle_machines_are_counted_by_the_gateway(self):
        trial = Trial(Case("c", (), machines=5, idle=True), Gateway(), types.SimpleNamespace(smoke=False))
        self.assertEqual(trial._faults({"load": {"lost": 0}, "receiver": {}, "open": 5}), [])
        self.assertEqual(trial._faults({"load": {"lost": 0}, "receiver": {}, "open": 3}), ["2 machines lost their connection"])

    def test_a_trial_on_cpus_that_had_other_work_is_no_figure(self):
        def unfit(rate=None, **row):
            trial = Trial(Case("c", (), rate=rate), Gateway(), types.SimpleNamespace(smoke=False))
            return len(trial._unfit({"records": 1, "records_per_s": 100.0, "busy": 0.1, "others_busy": 0.9, **row}))

        self.assertEqual((unfit(), unfit(others_busy=0.4)), (0, 1))
        self.assertEqual((unfit(rate=104), unfit(rate=110)), (0, 1))


if __name__ == "__main__":
    unittest.main()
