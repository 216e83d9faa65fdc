"""The dashboard: a face on the store. The engine is another process, and neither needs the other."""

from srtui.tui.app import Dashboard

__all__ = ["Dashboard"]
