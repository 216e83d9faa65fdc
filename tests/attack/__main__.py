"""``make attack``: the suite, its table, and one JSON line at the end."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


class Count:
    """What each attack came to."""

    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)


def main(words: list[str]) -> int:
    count = Count()
    code = pytest.main([str(HERE), "-q", "--no-header", "-p", "no:cacheprovider", *words], plugins=[count])
    ends: Counter[str] = Counter()
    for report in count.reports:
        if report.when == "call" or not report.passed:
            ends["held" if report.passed else "skipped" if report.skipped else "fell"] += 1
    print(json.dumps({"attack": {end: ends[end] for end in ("held", "fell", "skipped")}}))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
