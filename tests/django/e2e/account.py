"""What became of the records: the table against the ledger, in numbers."""

import dataclasses
import importlib.util
import pathlib

# The verifier of the demonstration knows the records' format and the ledger's.
SPECIFICATION = importlib.util.spec_from_file_location("verify_run", pathlib.Path(__file__).resolve().parents[2] / "verify_run.py")
verify_run = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(verify_run)


@dataclasses.dataclass
class Account:
    """Of one gateway. `sent`: records that the ledger wants to see; `stored`: rows; `duplicates`: rows beyond the first of a record;
    `lost`: sent and not stored; `reordered`: rows behind a later record of their machine; `altered`: rows that are no record sent."""

    sent: int = 0
    stored: int = 0
    duplicates: int = 0
    lost: int = 0
    reordered: int = 0
    altered: int = 0

    def numbers(self):
        return dataclasses.astuple(self)

    def is_flawless(self):
        return self.sent > 0 and self.stored == self.sent and not (self.duplicates or self.lost or self.reordered or self.altered)


HEAD = ["service", "gateway", *(field.name for field in dataclasses.fields(Account))]


def draw_up(rows, prefix, ledger):
    """The account of the rows [(id, machine, data)] under `prefix`, in the order of arrival; and the findings in words."""
    sent, _ = verify_run.read_ledger(ledger)
    account = Account(sent=sum(status in verify_run.MUST_ARRIVE for of in sent.values() for _, _, status in of.values()))
    own = [(row_id, name[len(prefix) + 1:], data) for row_id, name, data in rows if name.startswith(f"{prefix}.")]
    seen, latest = set(), {}
    for _, name, data in own:
        account.stored += 1
        machine, sequence, _ = verify_run.parse(data) or (None, None, None)
        entry = sent.get(machine, {}).get(sequence)
        if entry is None or machine != name or data != verify_run.build(machine, sequence, entry[0], entry[1]):
            account.altered += 1
        elif (machine, sequence) in seen:
            account.duplicates += 1
        else:
            seen.add((machine, sequence))
            account.reordered += latest.get(machine, -1) > sequence
            latest[machine] = max(latest.get(machine, -1), sequence)
    must = {(machine, sequence) for machine, of in sent.items() for sequence, entry in of.items() if entry[2] in verify_run.MUST_ARRIVE}
    account.lost = len(must - seen)
    # The same by another way, with names of records; it also holds that ids are unique.
    return account, verify_run.compare(own, sent, 0)


def table(rows):
    """Rows of text or numbers under each other; the first is the head."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in text) for column in range(len(text[0]))]
    return "\n".join("  ".join(
        cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))
    ).rstrip() for row in text)
