#!/usr/bin/env python3
"""Compares database and ledger of `ringest demo --keep DIR` without any of ringest's own code.

Usage: verify_run.py DIR

Every record that the ledger says was sent or acknowledged must be in the table `films` once, byte for byte, after all
earlier records of its machine, under its machine's name; ids must be unique; nothing else may be there but as many unreadable
rows as garbage and damaged records were sent. Prints one line with counts and up to ten findings; exits with 0 or 1.
Python 3.8 or later, standard library only.
"""

import csv
import pathlib
import sqlite3
import sys

HEADER = ["machine", "sequence", "scheduled_ns", "sent_ns", "acknowledged_ns", "bytes", "status"]
MUST_ARRIVE = {"sent", "acknowledged"}
MAY_ARRIVE = {"damaged", "unanswered", "refused"}
UNREADABLE = {"garbage", "damaged"}


def crc32c_table():
    """The table of CRC-32C (Castagnoli), reflected polynomial 0x82F63B78."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc32c_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def parse(data):
    """(machine, sequence, scheduled_ns) of a whole record, or None."""
    fields = data.split(b" ")
    if len(fields) != 6 or fields[0] != b"R1" or not all(fields) or len(fields[5]) != 8:
        return None
    try:
        if int(fields[5], 16) != crc32c(data[:-8]):
            return None
        return fields[1].decode("ascii"), int(fields[2]), int(fields[3])
    except ValueError:
        return None


def build(machine, sequence, scheduled_ns, length):
    """The record as its machine built it."""
    head = f"R1 {machine} {sequence} {scheduled_ns} ".encode()
    padding = max(length - len(head) - 9, 1)
    body = head + bytes(97 + (sequence + i) % 26 for i in range(padding)) + b" "
    return body + b"%08x" % crc32c(body)


def read_ledger(path):
    """{machine: {sequence: (scheduled_ns, bytes, status)}}, and how many rows may be unreadable."""
    sent, unreadable = {}, 0
    with open(path, newline="", encoding="ascii") as file:
        rows = csv.reader(file)
        if next(rows, None) != HEADER:
            sys.exit(f"{path}: the header is not {','.join(HEADER)}")
        for machine, sequence, scheduled_ns, _sent_ns, _acknowledged_ns, length, status in rows:
            unreadable += status in UNREADABLE
            if status == "garbage":
                continue
            if status not in MUST_ARRIVE | MAY_ARRIVE:
                sys.exit(f"{path}: unknown status {status!r}")
            records = sent.setdefault(machine, {})
            if int(sequence) in records:
                sys.exit(f"{path}: record {sequence} of {machine} stands there twice")
            records[int(sequence)] = (int(scheduled_ns), int(length), status)
    return sent, unreadable


def compare(films, sent, unreadable):
    """Findings, as text, of rows (id, machine, data) in the order of their arrival."""
    findings, seen, last, ids, names = [], set(), {}, set(), {}
    for row_id, name, data in films:
        if row_id in ids:
            findings.append(f"id {row_id} stands there twice")
        ids.add(row_id)
        record = parse(data)
        if record is None:
            unreadable -= 1
            if unreadable < 0:
                findings.append(f"id {row_id} of {name} is unreadable: {data[:80]!r}")
            continue
        machine, sequence, _ = record
        expected = sent.get(machine, {}).get(sequence)
        where = f"record {sequence} of {machine}"
        if expected is None:
            findings.append(f"{where} was never sent")
            continue
        if (machine, sequence) in seen:
            findings.append(f"{where} is there more than once")
            continue
        seen.add((machine, sequence))
        if data != build(machine, sequence, expected[0], expected[1]):
            findings.append(f"{where} is altered")
        # A row of a TCP connection bears the listener's name and the connection's address; a connection is one machine.
        if names.setdefault(name, machine) != machine or (name != machine and "@" not in name):
            findings.append(f"{where} is under the name {name}")
        if last.get(machine, -1) > sequence:
            findings.append(f"{where} comes after record {last[machine]}")
        last[machine] = sequence
    for machine, records in sorted(sent.items()):
        for sequence, (_, _, status) in sorted(records.items()):
            if status in MUST_ARRIVE and (machine, sequence) not in seen:
                findings.append(f"record {sequence} of {machine} is missing")
    return findings


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = pathlib.Path(sys.argv[1])
    sent, unreadable = read_ledger(directory / "ledger.csv")
    database = sqlite3.connect(f"{(directory / 'films.sqlite').absolute().as_uri()}?mode=ro", uri=True)
    films = database.execute("SELECT id, machine, CAST(data AS BLOB) FROM films ORDER BY position").fetchall()
    findings = compare(films, sent, unreadable)
    must = sum(status in MUST_ARRIVE for records in sent.values() for _, _, status in records.values())
    verdict = "each once, in order, byte for byte" if not findings else f"{len(findings)} findings"
    print(f"{len(sent)} machines, {must} records sent, {len(films)} rows: {verdict}")
    for finding in findings[:10]:
        print(f"  {finding}")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
