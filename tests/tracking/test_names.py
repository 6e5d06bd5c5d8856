"""Every metric has a name in one table, which is the one that docs/tracking.md shows."""

from __future__ import annotations

from pathlib import Path

from distgan.tracking.meter import NAMES
from distgan.tracking.names import HISTOGRAM, MEANINGS, OF_THE_MACHINE

DOCS = Path(__file__).resolve().parents[2] / "docs" / "tracking.md"


def test_the_documentation_shows_every_metric_as_the_table_has_it():
    rows = [f"| `{name}` | {meaning} |" for name, meaning in MEANINGS.items()]
    text = DOCS.read_text()
    assert [row for row in rows if row not in text] == []


def test_every_metric_of_the_meter_is_in_the_table():
    assert {*NAMES, HISTOGRAM, *OF_THE_MACHINE[1:]} <= MEANINGS.keys()
