"""The attack that stays: everything here tries to make srtui crash, lie, hang, leak or overwrite.

One row of a table is one attack. A new one is a line in the table of its theme::

    Attack("an id beyond SQLite's integers", "show 99999999999999999999999", says="no sample"),

What every attack asserts, without saying so, is in :mod:`attack.ground`: an exit code, one sentence,
no traceback, no hang, nothing in the output that a terminal would obey, the store as it was, no file
that was not asked for. A row says only what is different. ``make attack`` runs them and prints the
table; ``make test`` runs them too.
"""
