"""sqlite-utils, imported without the half second that it spends on pandas and numpy.

sqlite-utils imports both, where they are installed, only to adapt their scalar types. They are
installed here (datasets brings pandas), we never pass their types, and ``srtui status`` and the
dashboard must start at once. So for the length of its import they are hidden.
"""

from __future__ import annotations

import sys
from typing import Any

_hidden = [name for name in ("pandas", "numpy") if name not in sys.modules]
for _name in _hidden:
    sys.modules[_name] = None  # type: ignore[assignment]
try:
    import sqlite_utils
    import sqlite_utils.migrations
finally:
    for _name in _hidden:
        del sys.modules[_name]

Database: Any = sqlite_utils.Database
Migrations: Any = sqlite_utils.migrations.Migrations
