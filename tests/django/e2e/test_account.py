"""The account must find what it is there to find."""

import pathlib
import tempfile
import unittest

from . import account

LENGTH = 64


class DrawUp(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.ledger = pathlib.Path(self.directory.name) / "ledger.csv"
        lines = [",".join(account.verify_run.HEADER)]
        lines += [f"{machine},{n},{n},{n},0,{LENGTH},sent" for n in range(3) for machine in ("m-0", "m-1")]
        self.ledger.write_text("\n".join(lines) + "\n", encoding="ascii")
        order = [(machine, n) for n in range(3) for machine in ("m-0", "m-1")]
        build = account.verify_run.build
        self.rows = [(id_, f"p.{machine}", build(machine, n, n, LENGTH)) for id_, (machine, n) in enumerate(order)]

    def numbers(self, rows):
        result, findings = account.draw_up(rows, "p", self.ledger)
        self.assertEqual(result.is_flawless(), not findings)
        return result.numbers()

    def test_all_once_in_order_is_flawless(self):
        others = [(100 + id_, f"other.{name}", data) for id_, name, data in self.rows]
        self.assertEqual(self.numbers(self.rows + others), (6, 6, 0, 0, 0, 0))

    def test_a_missing_row_is_lost(self):
        self.assertEqual(self.numbers(self.rows[:-1]), (6, 5, 0, 1, 0, 0))

    def test_nothing_at_all_is_all_lost(self):
        self.assertEqual(self.numbers([]), (6, 0, 0, 6, 0, 0))

    def test_a_row_that_is_there_twice_is_a_duplicate(self):
        self.assertEqual(self.numbers([*self.rows, (99, *self.rows[0][1:])]), (6, 7, 1, 0, 0, 0))

    def test_a_row_behind_a_later_one_is_reordered(self):
        first, *rest = self.rows
        self.assertEqual(self.numbers([*rest, first]), (6, 6, 0, 0, 1, 0))

    def test_another_byte_or_another_machine_is_altered_and_the_record_lost(self):
        id_, name, data = self.rows[0]
        for row in [(id_, name, data[:-1] + b"!"), (id_, "p.m-1", data), (id_, name, data.replace(b" 0 ", b" 7 "))]:
            with self.subTest(row=row):
                self.assertEqual(self.numbers([row, *self.rows[1:]]), (6, 6, 0, 1, 0, 1))

    def test_an_id_that_is_there_twice_is_found(self):
        result, findings = account.draw_up([self.rows[0], (0, *self.rows[1][1:]), *self.rows[2:]], "p", self.ledger)
        self.assertEqual((result.lost, len(findings)), (0, 1))


if __name__ == "__main__":
    unittest.main()
