"""The ledger must find what it is there to find."""

import unittest

from .ledger import Ledger, record

SENT = 5


class Deliveries(unittest.TestCase):
    def ledger(self, lenient=False):
        ledger = Ledger(lenient)
        for name, kind in [("h", "http"), ("t", "tcp")]:
            lane = ledger.lane(name, kind)
            lane.sent = SENT
        return ledger

    def deliver(self, ledger, number, *, lane="h", key=None, record_id=None, source=None, data=None):
        ledger.deliver(key or f"k-{lane}-{number}", record_id, source or lane, data or record(lane, number))

    def findings(self, *deliveries, acknowledged=0, lenient=False):
        ledger = self.ledger(lenient)
        ledger.lanes["h"].acknowledged = acknowledged
        for delivery in deliveries:
            self.deliver(ledger, **delivery)
        return len(ledger.verdict())

    def test_all_in_order_is_well_and_so_is_the_last_one_again(self):
        deliveries = [{"number": number} for number in range(SENT)] + [{"number": SENT - 1}]
        self.assertEqual(self.findings(*deliveries, acknowledged=SENT), 0)
        tcp = [{"number": number, "lane": "t", "source": "tcp@127.0.0.1:7"} for number in range(SENT)]
        self.assertEqual(self.findings(*tcp), 0)

    def test_what_was_acknowledged_and_not_delivered_is_lost(self):
        self.assertEqual(self.findings({"number": 0}, acknowledged=3), 2)

    def test_of_a_damaged_journal_what_is_lost_is_counted_and_not_found(self):
        ledger = self.ledger(lenient=True)
        ledger.lanes["h"].acknowledged = 3
        self.deliver(ledger, 1)
        self.assertEqual((len(ledger.verdict()), len(ledger.missing())), (0, 2))

    def test_a_hole_is_found(self):
        self.assertEqual(self.findings({"number": 0}, {"number": 2}), 1)

    def test_an_earlier_record_behind_a_later_one_is_found(self):
        self.assertEqual(self.findings({"number": 0}, {"number": 1}, {"number": 2}, {"number": 0}), 1)
        self.assertEqual(self.findings({"number": 0}, {"number": 1}, {"number": 2}, {"number": 0}, {"number": 2}), 2)
        self.assertEqual(self.findings({"number": 1}, {"number": 0}, lenient=True), 1)

    def test_after_a_start_a_lane_may_go_back_and_then_comes_in_order_and_with_the_same_keys(self):
        for again, expected in [([0, 1, 2, 3], 0), ([1, 2, 3], 0), ([2, 2, 3], 0), ([1, 3], 1), ([2, 0, 1], 1), ([3, 1], 1)]:
            with self.subTest(again=again):
                ledger = self.ledger()
                for number in (0, 1, 2):
                    self.deliver(ledger, number)
                ledger.starts += 1
                for number in again:
                    self.deliver(ledger, number)
                self.assertEqual(len(ledger.verdict()), expected)
        ledger = self.ledger()
        for number in (0, 1, 2):
            self.deliver(ledger, number)
        ledger.starts += 1
        self.deliver(ledger, 0, key="other")
        self.assertEqual(len(ledger.verdict()), 1)

    def test_a_repetition_with_another_key_or_id_is_found(self):
        self.assertEqual(self.findings({"number": 0}, {"number": 0, "key": "other"}), 1)
        self.assertEqual(self.findings({"number": 0, "record_id": 1}, {"number": 0, "record_id": 2}), 1)
        self.assertEqual(self.findings({"number": 0}, {"number": 0, "key": "other"}, lenient=True), 1)

    def test_a_key_for_two_records_is_found(self):
        for lenient in (False, True):
            self.assertEqual(self.findings({"number": 0, "key": "k"}, {"number": 1, "key": "k"}, lenient=lenient), 1)

    def test_another_byte_is_found(self):
        self.assertEqual(self.findings({"number": 0, "data": record("h", 0)[:-1] + b"!"}), 1)
        self.assertEqual(self.findings({"number": 0, "data": record("h", 0)[:-1]}), 1)

    def test_what_nobody_sent_is_found(self):
        self.assertEqual(self.findings({"number": 0, "data": record("other", 0)}), 1)
        self.assertEqual(self.findings({"number": 0, "data": b"noise"}), 1)
        late = [{"number": number} for number in range(SENT + 1)]
        self.assertEqual(self.findings(*late), 1)

    def test_another_source_is_found(self):
        self.assertEqual(self.findings({"number": 0, "source": "t"}), 1)
        self.assertEqual(self.findings({"number": 0, "lane": "t", "source": "tcp@127.0.0.1:1"},
                                       {"number": 1, "lane": "t", "source": "tcp@127.0.0.1:2"}), 1)


if __name__ == "__main__":
    unittest.main()
