"""The account must find what it is there to find."""

import unittest

from faults.ledger import record

from .account import ATTEMPTS, Account, digest_of, id_of

SENT = 6


class Requests(unittest.TestCase):
    def setUp(self):
        self.account = Account()
        for name, kind, source in [("h0.1", "http", "h0.1"), ("t0.1", "tcp", "tcp@127.0.0.1:7"), ("line-0", "serial", "line-0")]:
            self.account.lane(name, kind, source).sent = SENT

    def request(self, lane, number, key=None, change=lambda body: body):
        found = self.account.lanes[lane]
        key = (key or f"k-{lane}-{number}").encode()
        body = b'{"id": %d, "machine": "%s", "data": "%s"}' % (id_of(digest_of(key)), found.source, record(lane, number))
        return self.account.look(key, change(body))

    def deliver(self, lane, *numbers, **how):
        for number in numbers:
            found = self.request(lane, number, **how)
            if found:
                self.account.accept(*found)

    def deliver_all(self, *but):
        for name, lane in self.account.lanes.items():
            if name not in but:
                self.deliver(name, *range(SENT))
                lane.acknowledged = SENT

    def wrong(self):
        found = self.account.verdict()
        return {name: count for name, count in found.items() if count}

    def test_all_in_order_and_some_again_is_well(self):
        self.deliver_all()
        self.deliver("h0.1", 3, 3, 0)
        self.assertEqual((self.wrong(), self.account.findings, self.account.repeated), ({}, [], 3))

    def test_what_is_missing_is_lost_unless_nobody_was_told_that_it_came(self):
        self.deliver_all("h0.1", "t0.1")
        self.deliver("t0.1", 0, 1, 2, 3)
        self.deliver("h0.1", 0, 1)
        self.account.lanes["h0.1"].acknowledged = 3
        self.assertEqual(self.wrong(), {"lost": 3})
        self.account.lanes["t0.1"].is_cut = True
        self.assertEqual(self.wrong(), {"lost": 1})

    def test_a_connection_that_was_cut_has_no_holes(self):
        self.deliver_all("t0.1")
        self.account.lanes["t0.1"].is_cut = True
        self.deliver("t0.1", 0, 1, 3)
        self.assertEqual(self.wrong(), {"lost": 1})

    def test_each_end_of_the_gateway_explains_one_serial_record(self):
        self.deliver_all("line-0")
        self.deliver("line-0", 0, 1, 4, 5)
        lane = self.account.lanes["line-0"]
        lane.cuts = [(1, 4)]
        self.assertEqual(self.wrong(), {"lost": 1, "halved": 1})
        lane.cuts = [(4, 6)]
        self.assertEqual(self.wrong(), {"lost": 2})

    def test_what_the_gateway_counted_must_have_come(self):
        self.deliver_all("t0.1")
        self.account.lanes["t0.1"].is_cut = True
        self.deliver("t0.1", 0, 1)
        self.account.count([{"name": "tcp", "received": 4, "rejected": 1}])
        self.assertEqual(self.wrong(), {"lost": 1})

    def test_one_record_under_two_keys_is_doubled_and_so_are_two_under_one(self):
        self.deliver_all()
        self.deliver("t0.1", 2, key="another")
        self.assertEqual(self.wrong(), {"doubled": 1})
        self.account.lanes["t0.1"].keys[2] = self.account.lanes["h0.1"].keys[2]
        self.assertEqual(self.wrong(), {"doubled": 2})

    def test_only_what_was_parked_may_come_late(self):
        for refusals, wrong in [(ATTEMPTS, {}), (ATTEMPTS - 1, {"reordered": 1})]:
            self.setUp()
            self.deliver_all("t0.1")
            self.deliver("t0.1", 0, 1)
            for _ in range(refusals):
                self.account.refuse(*self.request("t0.1", 2)[:2])
            self.deliver("t0.1", 3, 4, 5, 2)
            self.assertEqual(self.wrong(), wrong)

    def test_other_bytes_another_id_and_what_was_never_sent_are_found(self):
        changes = [lambda body: body.replace(b"R1 t0.1 1 ", b"R1 t0.1 2 "), lambda body: body.replace(b'"id": ', b'"id": 1'),
                   lambda body: body.replace(b":7", b":8"), lambda body: body + b" ", lambda body: b"{}"]
        for place, change in enumerate(changes, 1):
            self.assertIsNone(self.request("t0.1", 1, change=change))
            self.assertEqual(len(self.account.findings), place)
        self.assertIsNone(self.request("t0.1", SENT))
        self.assertEqual(self.account.finding_count, len(changes) + 1)


if __name__ == "__main__":
    unittest.main()
