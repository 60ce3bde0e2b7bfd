"""Whose logins are refused most: a small table in a process's row, however many addresses try. Pure.

An address is one 64-bit cell: an IPv4 address as it is, an IPv6 one as its /64, which is what one customer of a provider
has. When the table is full, a new address takes the place of the one with the fewest and counts on from there, so who
tries most is always in it (Metwally's "space saving"); counts may be too high by what the evicted one had.
"""

import ipaddress

from . import layout

# Marks IPv4. As the head of an IPv6 address this would be a group's, which nobody sends from.
_FOUR = 0xFFFF << 48
# Fewer are mistakes of people; they need no series of their own.
SHOWN_FROM = 5


def key(address):
    """The cell of an address; 0 where there is none."""
    if not address:
        return 0
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    if mapped or parsed.version == 4:
        return _FOUR | int(mapped or parsed)
    return int(parsed) >> 64


def name(cell):
    """An address as people write it."""
    if cell & _FOUR == _FOUR:
        return str(ipaddress.IPv4Address(cell & 0xFFFFFFFF))
    return f"{ipaddress.IPv6Address(cell << 64)}/64"


def _slots(row):
    return range(layout.ADDRESSES, layout.RECYCLES, 2)


def count(row, cell):
    """One refusal more of this address."""
    least = layout.ADDRESSES
    for slot in _slots(row):
        if row[slot] == cell or not row[slot]:
            row[slot] = cell
            row[slot + 1] += 1
            return
        if row[slot + 1] < row[least + 1]:
            least = slot
    row[least] = cell
    row[least + 1] += 1


def merge(totals, row):
    """Adds a row's table to a dictionary of counts."""
    for slot in _slots(row):
        if row[slot]:
            totals[row[slot]] = totals.get(row[slot], 0) + row[slot + 1]


def put(row, totals):
    """Replaces a row's table by the most frequent of `totals`."""
    most = sorted(totals.items(), key=lambda entry: (-entry[1], entry[0]))[:layout.ADDRESS_SLOTS]
    for slot, (cell, number) in zip(_slots(row), most + [(0, 0)] * (layout.ADDRESS_SLOTS - len(most))):
        row[slot], row[slot + 1] = cell, number


def shown(row):
    """`(address, count)` of those that are worth a series."""
    return [(name(row[slot]), row[slot + 1]) for slot in _slots(row) if row[slot] and row[slot + 1] >= SHOWN_FROM]
