"""srtui: offline Selective Reflection-Tuning (Li et al., ACL 2024) on one machine."""

__version__ = "0.1.0"
