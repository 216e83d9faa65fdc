"""ShareGPT records: ``conversations`` of ``from`` (human, gpt) and ``value``."""

from srtui.datasets.layouts.conversation import conversation

SHAREGPT = conversation(
    "sharegpt", "conversations", role_key="from", text_key="value", user="human", assistant="gpt"
)
