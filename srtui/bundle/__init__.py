"""A folder with which srtui is installed on a machine that has no network; docs/offline.md says how."""

from srtui.bundle.making import Made, Plan, check_new, make, plan
from srtui.bundle.target import Target

__all__ = ["Made", "Plan", "Target", "check_new", "make", "plan"]
