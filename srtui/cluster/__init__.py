"""The teacher, the student's scorer and training in other processes, on this machine or on many, through Ray.

The engine does not know: what it gets are the same interfaces (:class:`srtui.llama.Teacher`, a scorer,
:func:`srtui.training.train`), and its process stays the only one that writes the store. A worker holds a model and a
few pieces of work, and nothing else; ``dispatch`` says which has what, ``pool`` starts workers, listens to them and
replaces those that fail, ``session`` starts Ray or joins a cluster.
"""

from srtui.cluster.address import ClusterAddress, parse_place
from srtui.cluster.worker_limits import Limits

__all__ = ["ClusterAddress", "Limits", "parse_place"]
