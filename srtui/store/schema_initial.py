"""The tables of the first migration: datasets, samples and variants, generations, scores, runs and what each did."""

INITIAL = """
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
