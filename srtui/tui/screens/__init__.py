"""The dashboard's screens, a file each. Those with a number are listed in ``srtui/tui/tabs.py``."""
