"""The tables, as numbered forward-only migrations. docs/architecture.md says what each is for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from srtui.store._sqlite_utils import Migrations

migrations = Migrations("srtui")


_TRAINING = """
ALTER TABLE training_run ADD COLUMN plan TEXT NOT NULL DEFAULT '{}';
CREATE TABLE checkpoint(
    id INTEGER PRIMARY KEY,
    training_run_id INTEGER NOT NULL REFERENCES training_run(id) ON DELETE CASCADE,
    step INTEGER NOT NULL,
    path TEXT NOT NULL,                 -- relative to the workspace
    bytes INTEGER NOT NULL,
    seconds REAL NOT NULL,              -- that writing it took
    state TEXT NOT NULL CHECK(state IN ('good', 'corrupt', 'removed')),
    created_at REAL NOT NULL,
    UNIQUE(training_run_id, step)
)
"""

# The text index is filled by the first searches, in batches (srtui.store.marks), and not by triggers:
# triggers would halve the speed of an import, for people who may never search.
_DASHBOARD = """
CREATE TABLE flag(
    sample_id INTEGER PRIMARY KEY REFERENCES sample(id) ON DELETE CASCADE,
    created_at REAL NOT NULL
);
CREATE TABLE note(
    id INTEGER PRIMARY KEY,             -- the last one of a sample is shown, none is overwritten
    sample_id INTEGER NOT NULL REFERENCES sample(id) ON DELETE CASCADE,
    text TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX note_sample ON note(sample_id);
CREATE INDEX overrule_sample ON overrule(run_id, sample_id) WHERE undone_at IS NULL;
CREATE INDEX variant_by_hand ON variant(sample_id) WHERE kind = 'manual';
CREATE INDEX request_open ON request(run_id) WHERE handled_at IS NULL;
CREATE VIRTUAL TABLE variant_text USING fts5(
    instruction, input, response,
    content='variant', content_rowid='id', columnsize=0, tokenize='unicode61 remove_diacritics 2'
);
CREATE TABLE variant_text_upto(variant_id INTEGER NOT NULL);
INSERT INTO variant_text_upto VALUES (0)
"""

# An answer is addressed by all that determines its text, a judgement by all that determines it, so a
# second evaluation asks only for what is new.
_EVALUATION = """
CREATE TABLE evaluation(
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK(kind IN ('pairwise', 'winrate', 'turns', 'choice', 'calibration', 'human')),
    fingerprint TEXT NOT NULL,          -- of all that the result depends on: the same one is resumed
    contestant_a TEXT NOT NULL,         -- as the user named it
    contestant_b TEXT,
    identity_a TEXT NOT NULL,           -- JSON: kind, model, hashes, adapter, template
    identity_b TEXT,
    run_a_id INTEGER REFERENCES run(id) ON DELETE SET NULL,
    run_b_id INTEGER REFERENCES run(id) ON DELETE SET NULL,
    judge TEXT,                         -- as the user named it, null for people and multiple choice
    judge_identity TEXT,                -- JSON: model, sha256, the judge's prompt version
    source TEXT NOT NULL,               -- the file of prompts, questions, tasks or known judgements
    source_sha256 TEXT NOT NULL,
    settings TEXT NOT NULL,             -- JSON
    status TEXT NOT NULL CHECK(status IN ('new', 'running', 'stopped', 'failed', 'done')),
    stage TEXT,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    result TEXT,                        -- JSON, once there is one
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL
);
CREATE INDEX evaluation_fingerprint ON evaluation(fingerprint);
CREATE TABLE evaluation_item(
    evaluation_id INTEGER NOT NULL REFERENCES evaluation(id) ON DELETE CASCADE,
    item INTEGER NOT NULL,              -- from 0, in the order of the source
    external_id TEXT,
    category TEXT NOT NULL,
    turns TEXT NOT NULL,                -- JSON: what is asked, a text a turn
    reference TEXT,                     -- JSON: reference answers, the right choice, or known scores
    PRIMARY KEY(evaluation_id, item)
) WITHOUT ROWID;
CREATE TABLE answer(
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,           -- of model, adapter, prompt, template, sampler and seed, or of the text
    origin TEXT NOT NULL CHECK(origin IN ('model', 'file')),
    model TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    adapter_sha256 TEXT,
    template TEXT NOT NULL,
    sampler TEXT NOT NULL,              -- JSON
    seed INTEGER NOT NULL,
    prompt TEXT NOT NULL,               -- as the model saw it
    text TEXT NOT NULL,
    finish TEXT NOT NULL,               -- end, length, ..., or why there is no text
    prompt_tokens INTEGER NOT NULL,
    new_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE evaluation_answer(
    evaluation_id INTEGER NOT NULL REFERENCES evaluation(id) ON DELETE CASCADE,
    item INTEGER NOT NULL,
    side TEXT NOT NULL CHECK(side IN ('a', 'b')),
    turn INTEGER NOT NULL,              -- from 1
    answer_id INTEGER NOT NULL REFERENCES answer(id),
    PRIMARY KEY(evaluation_id, item, side, turn)
) WITHOUT ROWID;
CREATE TABLE judgement(
    id INTEGER PRIMARY KEY,
    evaluation_id INTEGER NOT NULL REFERENCES evaluation(id) ON DELETE CASCADE,
    item INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    ordering TEXT NOT NULL CHECK(ordering IN ('ab', 'ba', 'a')),  -- which side was shown first, a is alone
    annotator TEXT NOT NULL,            -- a person's name, empty for a model
    key BLOB,                           -- of judge, prompt, answers and order
    answer_a_id INTEGER REFERENCES answer(id),  -- A's answer, in either order
    answer_b_id INTEGER REFERENCES answer(id),
    score_a REAL,                       -- 1 to 10, expected under the judge's probabilities, 0 or 1 for a choice
    score_b REAL,
    probabilities TEXT,                 -- JSON: {"a": [of 1, ..., of 10], "b": [...], "mass": [a, b]}
    words TEXT NOT NULL,                -- what the judge wrote
    text_score_a REAL,                  -- what its words say, where they say it
    text_score_b REAL,
    parsed TEXT NOT NULL,               -- parsed, not asked, or why there is nothing
    choice TEXT CHECK(choice IN ('a', 'b', 'tie', 'bad', 'skip')),  -- a person's
    seconds REAL NOT NULL,
    created_at REAL NOT NULL,
    UNIQUE(evaluation_id, item, turn, ordering, annotator)
);
CREATE INDEX judgement_key ON judgement(key) WHERE key IS NOT NULL;
CREATE TABLE evaluation_lease(
    evaluation_id INTEGER PRIMARY KEY REFERENCES evaluation(id) ON DELETE CASCADE,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    process_started REAL NOT NULL,
    acquired_at REAL NOT NULL,
    heartbeat_at REAL NOT NULL,
    live TEXT NOT NULL
)
"""

# Before it, a setting knew its template by name alone: those rows keep '', and are not used again.
_TEMPLATE_VERSION = """
ALTER TABLE scoring_setting ADD COLUMN template_version TEXT NOT NULL DEFAULT ''
"""

# A lease names its process by boot and clock ticks (srtui.process_id). ``output`` has the hashes of the files
# that commands wrote, so that they may be written over. A date freezes what chat templates say is today.
_SAFETY = """
ALTER TABLE lease ADD COLUMN process TEXT;
ALTER TABLE evaluation_lease ADD COLUMN process TEXT;
CREATE TABLE output(
    sha256 TEXT PRIMARY KEY,
    path TEXT NOT NULL,                 -- where it was written, for people: the hash alone counts
    written_at REAL NOT NULL
);
ALTER TABLE outcome ADD COLUMN setting_id INTEGER REFERENCES scoring_setting(id);
ALTER TABLE run ADD COLUMN date TEXT;
ALTER TABLE scoring_setting ADD COLUMN date TEXT
"""

_INITIAL = """
CREATE TABLE dataset(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at REAL NOT NULL
);
CREATE TABLE import(
    id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL REFERENCES dataset(id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    format TEXT NOT NULL,
    kind TEXT NOT NULL,                 -- original, or the kind of variant the rows became
    rows_read INTEGER NOT NULL,
    rows_new INTEGER NOT NULL,
    rows_duplicate INTEGER NOT NULL,
    rows_bad INTEGER NOT NULL,
    created_at REAL NOT NULL,
    UNIQUE(dataset_id, sha256, kind)
);
CREATE TABLE bad_row(
    import_id INTEGER NOT NULL REFERENCES import(id) ON DELETE CASCADE,
    line INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX bad_row_import ON bad_row(import_id);

CREATE TABLE sample(
    id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL REFERENCES dataset(id) ON DELETE CASCADE,
    row INTEGER NOT NULL,
    external_id TEXT,
    digest BLOB NOT NULL,               -- of the original pair: exact duplicates are kept once
    record TEXT NOT NULL,               -- the untouched original record, as JSON
    UNIQUE(dataset_id, digest)
);
CREATE TABLE variant(
    id INTEGER PRIMARY KEY,
    sample_id INTEGER NOT NULL REFERENCES sample(id) ON DELETE CASCADE,
    digest BLOB NOT NULL,
    kind TEXT NOT NULL CHECK(kind IN ('original', 'instruction_reflected', 'response_reflected', 'manual')),
    origin TEXT NOT NULL CHECK(origin IN ('dataset', 'teacher', 'import', 'person')),
    parent_id INTEGER REFERENCES variant(id),
    generation_id INTEGER REFERENCES generation(id),
    instruction TEXT NOT NULL,
    input TEXT NOT NULL,
    response TEXT NOT NULL,
    created_at REAL NOT NULL,
    UNIQUE(sample_id, digest)
);
CREATE INDEX variant_parent ON variant(parent_id) WHERE parent_id IS NOT NULL;
CREATE TABLE generation(
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,           -- of everything that determines the text
    parent_variant_id INTEGER NOT NULL REFERENCES variant(id) ON DELETE CASCADE,
    stage TEXT NOT NULL,
    model TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    prompt_version TEXT NOT NULL,
    mode TEXT NOT NULL,
    sampler TEXT NOT NULL,              -- JSON
    seed INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    candidate INTEGER NOT NULL,
    prompt TEXT NOT NULL,
    text TEXT NOT NULL,
    thinking TEXT NOT NULL,
    critique TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    new_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    finish TEXT NOT NULL,
    parsed TEXT NOT NULL,               -- parsed, or why not
    variant_id INTEGER REFERENCES variant(id),
    created_at REAL NOT NULL
);
CREATE INDEX generation_parent ON generation(parent_variant_id, stage);

CREATE TABLE scoring_setting(
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    student TEXT NOT NULL,
    student_id TEXT NOT NULL,           -- hash of weights and quantization
    quantization TEXT NOT NULL,
    template TEXT NOT NULL,
    protocol TEXT NOT NULL,
    max_length INTEGER NOT NULL
);
CREATE TABLE span_loss(
    key BLOB PRIMARY KEY,               -- of student, token ids and how many of them are the target
    nll REAL,                           -- summed, nats
    tokens INTEGER NOT NULL,
    truncated INTEGER NOT NULL,
    reason TEXT                         -- why there is no nll
) WITHOUT ROWID;
CREATE TABLE score(
    variant_id INTEGER NOT NULL REFERENCES variant(id) ON DELETE CASCADE,
    setting_id INTEGER NOT NULL REFERENCES scoring_setting(id),
    metric TEXT NOT NULL CHECK(metric IN ('ifd', 'rifd')),
    conditional_key BLOB,
    unconditional_key BLOB,
    value REAL,                         -- ratio of perplexities
    reason TEXT,
    PRIMARY KEY(variant_id, setting_id, metric)
) WITHOUT ROWID;

CREATE TABLE run(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    dataset_id INTEGER NOT NULL REFERENCES dataset(id),
    setting_id INTEGER REFERENCES scoring_setting(id),
    recipe_path TEXT NOT NULL,
    recipe TEXT NOT NULL,               -- JSON snapshot
    fingerprint TEXT NOT NULL,
    status TEXT NOT NULL CHECK(status IN ('new', 'running', 'paused', 'stopped', 'failed', 'done')),
    stage TEXT,
    teacher TEXT,                       -- JSON identity
    error TEXT,
    peak_memory_mb REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL
);
CREATE TABLE run_sample(
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    sample_id INTEGER NOT NULL REFERENCES sample(id),
    held_out INTEGER NOT NULL,
    PRIMARY KEY(run_id, sample_id)
) WITHOUT ROWID;
CREATE TABLE reflection(
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    sample_id INTEGER NOT NULL REFERENCES sample(id),
    stage TEXT NOT NULL CHECK(stage IN ('instruction', 'response')),
    parent_variant_id INTEGER NOT NULL REFERENCES variant(id),
    status TEXT NOT NULL,               -- parsed, or why there is no rewrite
    attempts INTEGER NOT NULL,
    PRIMARY KEY(run_id, sample_id, stage)
) WITHOUT ROWID;
CREATE TABLE candidate(
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    sample_id INTEGER NOT NULL REFERENCES sample(id),
    stage TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    variant_id INTEGER NOT NULL REFERENCES variant(id),
    PRIMARY KEY(run_id, sample_id, stage, ordinal)
) WITHOUT ROWID;
CREATE TABLE decision(
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    sample_id INTEGER NOT NULL REFERENCES sample(id),
    stage TEXT NOT NULL CHECK(stage IN ('instruction', 'response')),
    chosen_id INTEGER NOT NULL REFERENCES variant(id),
    reflected INTEGER NOT NULL,         -- the student took a rewrite
    reason TEXT NOT NULL,
    compared TEXT NOT NULL,             -- JSON: [[variant id, score or null, reason or null], ...]
    created_at REAL NOT NULL,
    PRIMARY KEY(run_id, sample_id, stage)
) WITHOUT ROWID;
CREATE TABLE outcome(
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    sample_id INTEGER NOT NULL REFERENCES sample(id),
    variant_id INTEGER NOT NULL REFERENCES variant(id),
    kept INTEGER NOT NULL,
    reason TEXT NOT NULL,
    ifd REAL,
    rifd REAL,
    PRIMARY KEY(run_id, sample_id)
) WITHOUT ROWID;
CREATE TABLE overrule(
    id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    sample_id INTEGER NOT NULL REFERENCES sample(id),
    variant_id INTEGER NOT NULL REFERENCES variant(id),
    note TEXT NOT NULL,
    created_at REAL NOT NULL,
    undone_at REAL
);

CREATE TABLE stage_progress(
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    stage TEXT NOT NULL,
    done INTEGER NOT NULL,
    total INTEGER NOT NULL,
    tokens INTEGER NOT NULL,            -- run through a model, prompt and new
    seconds REAL NOT NULL,
    detail TEXT NOT NULL,               -- JSON
    updated_at REAL NOT NULL,
    PRIMARY KEY(run_id, stage)
) WITHOUT ROWID;
CREATE TABLE lease(
    run_id INTEGER PRIMARY KEY REFERENCES run(id) ON DELETE CASCADE,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    process_started REAL NOT NULL,
    acquired_at REAL NOT NULL,
    heartbeat_at REAL NOT NULL,
    live TEXT NOT NULL                  -- JSON: what the engine is doing this second
);
CREATE TABLE request(
    id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK(kind IN ('pause', 'resume', 'stop')),
    created_at REAL NOT NULL,
    handled_at REAL
);
CREATE TABLE event(
    id INTEGER PRIMARY KEY,
    run_id INTEGER REFERENCES run(id) ON DELETE CASCADE,
    at REAL NOT NULL,
    level TEXT NOT NULL CHECK(level IN ('info', 'warning', 'error')),
    message TEXT NOT NULL
);
CREATE INDEX event_run ON event(run_id, id);
CREATE TABLE training_run(
    id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL UNIQUE REFERENCES run(id) ON DELETE CASCADE,
    status TEXT NOT NULL,               -- running, done, or skipped: why
    examples INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    adapter TEXT,                       -- relative to the workspace
    result TEXT NOT NULL,               -- JSON
    created_at REAL NOT NULL
);
CREATE TABLE training_metric(
    training_run_id INTEGER NOT NULL REFERENCES training_run(id) ON DELETE CASCADE,
    step INTEGER NOT NULL,
    name TEXT NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY(training_run_id, step, name)
) WITHOUT ROWID
"""

# How each segment of a generation ended: JSON, [[part, finish, tokens], ...]; null where an older version
# of srtui wrote it, which kept the last one's alone.
_ENDINGS = "ALTER TABLE generation ADD COLUMN segments TEXT"
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
_FIGURES = (
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

# A person's words that were taken back, for what was another choice at some time; the others have an index.
_GIVEN_UP = "CREATE INDEX overrule_given_up ON overrule(run_id) WHERE undone_at IS NOT NULL"

# Rewrites that a gate of the recipe kept from being compared (srtui.gates), counted by the same table of counts.
_GATED_COUNT = "SELECT {row}.run_id, 'gated', {row}.stage, {row}.gate, 0, 1"
_GATES = f"""
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

# Samples that are much like another one of their dataset; and what new runs leave out, though it stays stored. Of a
# run's training texts, how many hold prompts that this workspace has evaluated with.
_WHOLE_DATASETS = """
CREATE TABLE near_duplicate(
    sample_id INTEGER PRIMARY KEY REFERENCES sample(id) ON DELETE CASCADE,
    of_sample_id INTEGER NOT NULL REFERENCES sample(id) ON DELETE CASCADE,
    similarity REAL NOT NULL,           -- Jaccard, of the two texts that were compared
    found_at REAL NOT NULL
);
CREATE INDEX near_duplicate_of ON near_duplicate(of_sample_id);
CREATE TABLE left_out(
    sample_id INTEGER NOT NULL REFERENCES sample(id) ON DELETE CASCADE,
    why TEXT NOT NULL CHECK(why IN ('near-duplicate', 'evaluation prompt')),
    PRIMARY KEY(sample_id, why)
) WITHOUT ROWID;
CREATE TABLE contamination(
    run_id INTEGER PRIMARY KEY REFERENCES run(id) ON DELETE CASCADE,
    prompts INTEGER NOT NULL,           -- different ones that were looked for
    texts INTEGER NOT NULL,             -- trained on
    question INTEGER NOT NULL,          -- of these, the same question as a prompt
    long INTEGER NOT NULL,              -- else, thirteen words in a row of one
    short INTEGER NOT NULL,             -- else, eight words in a row
    checked_at REAL NOT NULL
)
"""

# The student's own embedding of a text: float16, little-endian, of the span that is scored.
_EMBEDDINGS = """
CREATE TABLE embedding(
    variant_id INTEGER NOT NULL REFERENCES variant(id) ON DELETE CASCADE,
    setting_id INTEGER NOT NULL REFERENCES scoring_setting(id),
    vector BLOB NOT NULL,
    PRIMARY KEY(variant_id, setting_id)
)
"""

# A conversation's id is that of its first turn; the ids of its turns follow each other. Samples of before have none.
# An import says what it took of conversations (``turns``, null where rows are none) and, as JSON, what it did not.
_CONVERSATIONS = """
CREATE TABLE conversation(
    id INTEGER PRIMARY KEY,             -- of its first turn
    dataset_id INTEGER NOT NULL REFERENCES dataset(id) ON DELETE CASCADE,
    row INTEGER NOT NULL,
    external_id TEXT,
    layout TEXT NOT NULL,               -- how its record holds turns
    turns INTEGER NOT NULL,
    record TEXT NOT NULL                -- the untouched original record, as JSON
);
CREATE INDEX conversation_dataset ON conversation(dataset_id);
CREATE TABLE turn(
    id INTEGER PRIMARY KEY,
    role TEXT NOT NULL CHECK(role IN ('system', 'user', 'assistant')),
    text TEXT NOT NULL,
    place INTEGER NOT NULL,             -- of its first entry in the record's list, -1 for the record's system field
    places INTEGER NOT NULL             -- how many entries it joins
);
CREATE TABLE exchange(                  -- a sample that is a part of a conversation
    sample_id INTEGER PRIMARY KEY REFERENCES sample(id) ON DELETE CASCADE,
    conversation_id INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
    answer_id INTEGER NOT NULL,         -- the turn of its response; the one before is its instruction, others its history
    followed INTEGER NOT NULL,          -- whether another exchange comes after it
    history BLOB                        -- digest of its history, null where it has none
);
CREATE INDEX exchange_conversation ON exchange(conversation_id);
CREATE TABLE exchange_again(            -- where else the same sample stands
    conversation_id INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
    answer_id INTEGER NOT NULL,
    sample_id INTEGER NOT NULL REFERENCES sample(id) ON DELETE CASCADE,
    PRIMARY KEY(conversation_id, answer_id)
) WITHOUT ROWID;
CREATE INDEX exchange_again_sample ON exchange_again(sample_id);
CREATE VIRTUAL TABLE turn_text USING fts5(
    text, content='turn', content_rowid='id', columnsize=0, tokenize='unicode61 remove_diacritics 2'
);
CREATE TABLE turn_text_upto(turn_id INTEGER NOT NULL);
INSERT INTO turn_text_upto VALUES (0);
ALTER TABLE import ADD COLUMN turns TEXT;
ALTER TABLE import ADD COLUMN left_out TEXT
"""

# What a measure is worth with a student, by pairs whose better answer is known; and the tokens' own losses of
# spans, for measures that need them (float16, the lowest byte first).
_CALIBRATION = """
CREATE TABLE calibration(
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,        -- of the student, the way of scoring, the pairs and what was asked of them
    setting_id INTEGER NOT NULL REFERENCES scoring_setting(id),
    source TEXT NOT NULL,
    pairs INTEGER NOT NULL,
    result TEXT NOT NULL,               -- JSON
    created_at REAL NOT NULL
);
CREATE INDEX calibration_setting ON calibration(setting_id, id);
CREATE TABLE token_loss(
    key BLOB PRIMARY KEY,               -- of span_loss
    nll BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE rating(
    key BLOB PRIMARY KEY,               -- of a question to a judge model that rates data
    value REAL,
    reason TEXT                         -- why there is no value
) WITHOUT ROWID
"""

# What a pilot came to, as srtui.pilot.result.PilotResult has it.
_PILOT = """
CREATE TABLE pilot(
    run_id INTEGER PRIMARY KEY REFERENCES run(id) ON DELETE CASCADE,
    result TEXT NOT NULL,               -- JSON
    created_at REAL NOT NULL
)
"""

SCRIPTS = {
    "0001_initial": _INITIAL,
    "0002_dashboard": _DASHBOARD,
    "0003_evaluation": _EVALUATION,
    "0004_training": _TRAINING,
    "0005_endings": _ENDINGS,
    "0006_template_version": _TEMPLATE_VERSION,
    "0007_safety": _SAFETY,
    "0008_figures": _FIGURES,
    "0009_given_up": _GIVEN_UP,
    "0010_gates": _GATES,
    "0011_whole_datasets": _WHOLE_DATASETS,
    "0012_embeddings": _EMBEDDINGS,
    "0013_conversations": _CONVERSATIONS,
    "0014_calibration": _CALIBRATION,
    "0015_pilot": _PILOT,
}
"""By migration, what it runs; forward only, and never changed once released."""


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


def statements(script: str) -> Iterator[str]:
    """The statements of a script one by one; a semicolon within a trigger ends none."""
    begun = ""
    for piece in script.split(";"):
        begun += piece + ";"
        if sqlite3.complete_statement(begun):
            if begun.strip(" \n;"):
                yield begun
            begun = ""


def _add(name: str, script: str) -> None:
    def run(db: Any) -> None:
        for statement in statements(script):
            db.conn.execute(statement)

    migrations(name=name)(run)


for _name, _script in SCRIPTS.items():
    _add(_name, _script)
