"""Chat records: ``messages`` of ``role`` (user, assistant) and ``content``."""

from srtui.datasets.layouts.conversation import conversation

MESSAGES = conversation(
    "messages",
    "messages",
    role_key="role",
    text_key="content",
    user="user",
    assistant="assistant",
    in_lines=True,
)
