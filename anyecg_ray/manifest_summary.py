"""What a manifest run has met so far, as a line now and then and as a summary at its end.

Lines are counts and reasons: a record's path may tell whose it is, and a line may end in a cluster's log.
"""

import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray.manifest_file import ManifestFile

PROGRESS = 10.0
"""Seconds between two lines of progress."""


@dataclass
class Summary:
    """What a run has met so far."""

    records: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    last_line: float = field(default_factory=time.monotonic)

    def add(self, rows: pa.Table, failed: list[str]) -> None:
        """Count rows, and headers that could not be fetched by their reasons."""
        self.records += pc.count_distinct(rows["record_id"]).as_py()
        self.by_status.update(rows["status"].to_pylist())
        self.failed.update(failed)

    def take_back(self, rows: pa.Table) -> None:
        """Count rows no more."""
        self.records -= pc.count_distinct(rows["record_id"]).as_py()
        self.by_status.subtract(rows["status"].to_pylist())

    def progress(self) -> None:
        """A line on stderr now and then."""
        now = time.monotonic()
        if now - self.last_line >= PROGRESS:
            self.last_line = now
            rate = self.records / (now - self.began)
            print(f"manifest: {self.records:,} records, {rate:,.0f}/s", file=sys.stderr, flush=True)

    def text(self, written: ManifestFile | None) -> str:
        """It in some lines, for people."""
        seconds = time.monotonic() - self.began
        lines = [f"{self.records:,} records, {self.by_status.total():,} spans in {seconds:.1f} s"]
        for status, count in sorted(self.by_status.items(), key=lambda item: -item[1]):
            if count:
                lines.append(f"  {status:15} {count:>12,}")
        if self.by_status.total() > self.by_status["ok"]:
            lines.append("  why, record by record: the manifest's column status_detail")
        lines += [f"note: {note}" for note in self.notes]
        if written is not None:
            lines.append(f"{written.uri}: {written.rows:,} spans in {len(written.row_groups):,} row groups")
        return "\n".join(lines)
