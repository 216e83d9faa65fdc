"""ShareGPT records: ``conversations`` of ``from`` (human, gpt) and ``value``."""

from srtui.datasets.layouts.conversation import conversation

SHAREGPT = conversation("sharegpt", "conversations", "from", "value", "human", "gpt")
