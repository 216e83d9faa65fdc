"""Counts that triggers keep while rows come in, so that nothing counts a run of a million samples: the tables and
triggers of their migrations, and the queries that derive the same counts anew (``srtui db check --deep``)."""

from __future__ import annotations

from collections.abc import Iterator

# What a score is counted under: steps of 1/2000 up to 4, of 1/10 above (srtui.store.distributions reads them).
_BIN = (
    "CASE WHEN s.value IS NULL THEN -1 WHEN s.value < 4 THEN CAST(s.value * 2000 AS INTEGER) "
    "ELSE 7960 + CAST(min(s.value, 1000) * 10 AS INTEGER) END"
)
_SCORED = f"""
    SELECT r.id, s.metric, v.kind, CASE WHEN s.value IS NULL THEN coalesce(s.reason, '?') ELSE '' END, {_BIN}, 1,
        coalesce(s.value, 0.0), coalesce(l.truncated, 0)
    FROM {{rows}} LEFT JOIN span_loss l ON l.key = s.conditional_key WHERE {{which}}"""
_COUNT_SCORES = f"""
    INSERT INTO score_bin(run_id, metric, kind, reason, bin, n, total, truncated){_SCORED}
    ON CONFLICT(run_id, metric, kind, reason, bin) DO UPDATE SET
        n = n + 1, total = total + excluded.total, truncated = truncated + excluded.truncated
"""
_ROWS_OF_A_RUN = (
    "run r JOIN run_sample rs ON rs.run_id = r.id JOIN variant v ON v.sample_id = rs.sample_id "
    "JOIN score s ON s.variant_id = v.id AND s.setting_id = r.setting_id"
)
_OF_A_RUN = _COUNT_SCORES.format(rows=_ROWS_OF_A_RUN, which="{which}")
_COUNT = "ON CONFLICT(run_id, what, stage, detail, flags) DO UPDATE SET n = n + 1"
_TALLIES = {
    "run_sample": "SELECT {row}.run_id, 'sample', '', '', {row}.held_out, 1",
    "reflection": "SELECT {row}.run_id, 'reflection', {row}.stage, {row}.status, {row}.attempts > 1, 1",
    "decision": "SELECT {row}.run_id, 'decision', {row}.stage, '', "
    "({row}.reflected <> 0) + 2 * (json_array_length({row}.compared) > 1), 1",
    "outcome": "SELECT {row}.run_id, 'outcome', '', {row}.reason, ({row}.kept <> 0) + 2 * coalesce((SELECT rs.held_out "
    "FROM run_sample rs WHERE rs.run_id = {row}.run_id AND rs.sample_id = {row}.sample_id), 0), 1",
}

# Counts that are always there, whoever writes: a run of a million samples is read back in milliseconds. Rows
# of these tables are inserted and, but for the end of a whole run, never changed or deleted.
FIGURES = (
    """
CREATE INDEX variant_original ON variant(sample_id) WHERE kind = 'original';
CREATE INDEX run_setting ON run(setting_id);
CREATE TABLE tally(
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    what TEXT NOT NULL,                 -- sample, reflection, decision, outcome
    stage TEXT NOT NULL,
    detail TEXT NOT NULL,               -- the status of a reflection, the reason of an outcome
    flags INTEGER NOT NULL,             -- held out; retried; taken + 2 * had a rewrite; kept + 2 * held out
    n INTEGER NOT NULL,
    PRIMARY KEY(run_id, what, stage, detail, flags)
) WITHOUT ROWID;
CREATE TABLE score_bin(                 -- every score of every text of the run's samples, under its setting
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    metric TEXT NOT NULL,
    kind TEXT NOT NULL,                 -- of the variant
    reason TEXT NOT NULL,               -- why there is no score, else empty
    bin INTEGER NOT NULL,               -- -1 without a score
    n INTEGER NOT NULL,
    total REAL NOT NULL,                -- of the scores
    truncated INTEGER NOT NULL,
    PRIMARY KEY(run_id, metric, kind, reason, bin)
) WITHOUT ROWID;
CREATE TABLE run_sums(                  -- what srtui.store.figures summed up, while the stamp is still the same
    run_id INTEGER PRIMARY KEY REFERENCES run(id) ON DELETE CASCADE,
    stamp TEXT NOT NULL,
    sums TEXT NOT NULL                  -- JSON
);
"""
    + "".join(
        f"INSERT INTO tally {rows.format(row='x')} FROM {table} x WHERE true {_COUNT};\n"
        f"CREATE TRIGGER tally_{table} AFTER INSERT ON {table} BEGIN\n"
        f"    INSERT INTO tally {rows.format(row='NEW')} WHERE true {_COUNT};\nEND;\n"
        for table, rows in _TALLIES.items()
    )
    + _OF_A_RUN.format(which="true")
    + f""";
CREATE TRIGGER score_bin_score AFTER INSERT ON score BEGIN
{
        _COUNT_SCORES.format(
            rows="score s JOIN variant v ON v.id = s.variant_id JOIN run r ON r.setting_id = s.setting_id "
            "JOIN run_sample rs ON rs.run_id = r.id AND rs.sample_id = v.sample_id",
            which="s.variant_id = NEW.variant_id AND s.setting_id = NEW.setting_id AND s.metric = NEW.metric",
        )
    };
END;
CREATE TRIGGER score_bin_sample AFTER INSERT ON run_sample BEGIN
{_OF_A_RUN.format(which="rs.run_id = NEW.run_id AND rs.sample_id = NEW.sample_id")};
END;
CREATE TRIGGER score_bin_setting AFTER UPDATE OF setting_id ON run WHEN NEW.setting_id IS NOT OLD.setting_id BEGIN
    DELETE FROM score_bin WHERE run_id = NEW.id;
{_OF_A_RUN.format(which="rs.run_id = NEW.id")};
END
"""
)

# Rewrites that a gate of the recipe kept from being compared (srtui.gates), counted by the same table of counts.
_GATED_COUNT = "SELECT {row}.run_id, 'gated', {row}.stage, {row}.gate, 0, 1"
GATES = f"""
CREATE TABLE gated(
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    sample_id INTEGER NOT NULL REFERENCES sample(id),
    stage TEXT NOT NULL CHECK(stage IN ('instruction', 'response')),
    variant_id INTEGER NOT NULL REFERENCES variant(id),
    gate TEXT NOT NULL,                 -- its key in the recipe's section gates
    reason TEXT NOT NULL,
    PRIMARY KEY(run_id, sample_id, stage, variant_id)
) WITHOUT ROWID;
CREATE TRIGGER tally_gated AFTER INSERT ON gated BEGIN
    INSERT INTO tally {_GATED_COUNT.format(row="NEW")} WHERE true {_COUNT};
END
"""


def counted_again() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(table, its key, query) of the counts that triggers keep: the query gives the same rows anew."""
    counted = {**_TALLIES, "gated": _GATED_COUNT}
    rows = " UNION ALL ".join(f"{row.format(row='x')} FROM {table} x" for table, row in counted.items())
    yield (
        "tally",
        ("run_id", "what", "stage", "detail", "flags"),
        f"WITH one(run_id, what, stage, detail, flags, n) AS ({rows}) "
        "SELECT run_id, what, stage, detail, flags, sum(n) FROM one GROUP BY 1, 2, 3, 4, 5",
    )
    scored = _SCORED.format(rows=_ROWS_OF_A_RUN, which="true")
    yield (
        "score_bin",
        ("run_id", "metric", "kind", "reason", "bin"),
        "WITH one(run_id, metric, kind, reason, bin, n, total, truncated) AS (" + scored + ") "
        "SELECT run_id, metric, kind, reason, bin, sum(n), sum(total), sum(truncated) FROM one GROUP BY 1, 2, 3, 4, 5",
    )
