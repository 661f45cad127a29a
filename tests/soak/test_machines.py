"""The machine on a pty, whose way to hang up is intricate."""

import os
import pathlib
import random
import tempfile
import time
import types
import unittest

from .account import Account
from .machines import ETX, STX, XOFF, XON, SerialMachine


class Reader:
    """Who has the port open, and what it read."""

    def __init__(self, link):
        self.descriptor, self.data, self.is_gone = os.open(link, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK), b"", False

    def read(self):
        try:
            data = os.read(self.descriptor, 4096)
            self.data += data
            self.is_gone |= not data
        except BlockingIOError:
            pass
        except OSError:
            self.is_gone = True

    def close(self):
        os.close(self.descriptor)


class Serial(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.account = Account()
        wire = types.SimpleNamespace(ledger=self.account, receiver=types.SimpleNamespace(rng=random.Random(1)))
        self.link = pathlib.Path(directory.name) / "line-0"
        self.machine = SerialMachine(wire, "line-0", self.link, 200)
        self.addCleanup(self.machine.close)
        self.machine.tick(time.monotonic())

    def tick_until(self, is_so, reader=None):
        until = time.monotonic() + 5
        while not is_so():
            self.assertLess(time.monotonic(), until)
            self.machine.tick(time.monotonic())
            if reader:
                reader.read()
            time.sleep(0.001)

    def read_records(self, reader, count):
        self.tick_until(lambda: reader.data.count(ETX) >= count, reader)
        reader.close()
        return [data.split(b" ")[2] for data in reader.data.split(STX)[1:]]

    def test_it_sends_while_somebody_has_its_port_open_and_goes_on_with_the_next_one(self):
        first = self.read_records(Reader(self.link), 10)
        self.tick_until(lambda: not self.machine.is_connected())
        sent = self.machine.lane.sent
        for _ in range(50):
            self.machine.tick(time.monotonic())
        self.assertEqual(self.machine.lane.sent, sent)
        # What the first one did not read is there for the second.
        second = self.read_records(Reader(self.link), 10)
        self.assertEqual([int(number) for number in first + second], list(range(len(first + second))))

    def test_it_waits_when_it_is_told_to(self):
        reader = Reader(self.link)
        self.tick_until(lambda: reader.data, reader)
        os.write(reader.descriptor, bytes([XOFF]))
        self.tick_until(lambda: self.machine.is_held, reader)
        sent = self.machine.lane.sent
        for _ in range(50):
            self.machine.tick(time.monotonic())
        self.assertEqual((self.machine.lane.sent, self.machine.held), (sent, 1))
        os.write(reader.descriptor, bytes([XON]))
        self.tick_until(lambda: self.machine.lane.sent > sent, reader)
        reader.close()

    def test_unplugged_in_the_middle_of_a_record_it_comes_back_and_sends_that_one_whole(self):
        reader, lane = Reader(self.link), self.machine.lane
        self.tick_until(lambda: lane.sent > 3, reader)
        self.machine.unplug()
        self.tick_until(lambda: not self.machine.rest, reader)
        sent = lane.sent
        self.tick_until(lambda: reader.data.count(ETX) == sent, reader)
        # One was lost before, half read by a gateway that was ended.
        lane.accepted, lane.last = sent - 1, sent - 1
        self.tick_until(lambda: self.machine.master is None, reader)
        self.tick_until(lambda: reader.is_gone, reader)
        reader.close()
        self.assertFalse(self.link.is_symlink())
        half = reader.data.rpartition(STX)[2]
        self.assertTrue(half.startswith(b"R1 line-0 %d " % sent) and ETX not in half, half)
        self.tick_until(self.link.is_symlink)
        again = self.read_records(Reader(self.link), 3)
        self.assertEqual([int(number) for number in again[:3]], [sent, sent + 1, sent + 2])


if __name__ == "__main__":
    unittest.main()
