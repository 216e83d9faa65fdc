"""The tables, as numbered forward-only migrations. The glossary of docs/architecture.md has what the rows are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from srtui.store._sqlite_utils import Migrations
from srtui.store.decisions import teach_margin
from srtui.store.schema_counts import FIGURES, GATES
from srtui.store.schema_initial import INITIAL

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


# How each segment of a generation ended: JSON, [[part, finish, tokens], ...]; null where an older version
# of srtui wrote it, which kept the last one's alone.
_ENDINGS = "ALTER TABLE generation ADD COLUMN segments TEXT"
# A person's words that were taken back, for what was another choice at some time; the others have an index.
_GIVEN_UP = "CREATE INDEX overrule_given_up ON overrule(run_id) WHERE undone_at IS NOT NULL"

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

# How histories are laid out, where that was another way at first: in front of a question, and not by themselves. And
# whose scores a decision compared, which its reason alone said.
_WHOSE_SCORES = """
ALTER TABLE scoring_setting ADD COLUMN histories TEXT;
ALTER TABLE decision ADD COLUMN by_proxy INTEGER NOT NULL DEFAULT 0;
UPDATE decision SET by_proxy = 1 WHERE instr(reason, ' (by ' || (SELECT CASE WHEN json_valid(r.recipe) THEN
    json_extract(r.recipe, '$.scoring.proxy') END FROM run r WHERE r.id = run_id) || ')') > 0
"""

# What a million generations have in common is stored once. A generation says it by ``asked_id``, and by ``frame_id``
# what its prompt is made of; its own columns of these are empty then. Rows of before have no such ids, and keep theirs:
# to rewrite them would take as long as the store is large.
_SCALE = """
CREATE TABLE asked(
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    prompt_version TEXT NOT NULL,
    mode TEXT NOT NULL,
    sampler TEXT NOT NULL,              -- JSON
    UNIQUE(model, model_sha256, prompt_version, mode, sampler)
);
CREATE TABLE prompt_frame(
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    pieces TEXT NOT NULL                -- JSON: texts, and numbers of the pair's texts (srtui.store.asked)
);
ALTER TABLE generation ADD COLUMN asked_id INTEGER REFERENCES asked(id);
ALTER TABLE generation ADD COLUMN frame_id INTEGER REFERENCES prompt_frame(id);
CREATE TABLE merged(                    -- a shard of a run that was made in another store (srtui.store.merging)
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    shard BLOB NOT NULL,                -- what it is known again by
    path TEXT NOT NULL,
    upto INTEGER,                       -- the last of its samples that are taken, null once all are
    merged_at REAL NOT NULL,
    PRIMARY KEY(run_id, shard)
) WITHOUT ROWID;
CREATE TABLE merged_stage(              -- what the shard's stages took
    run_id INTEGER NOT NULL,
    shard BLOB NOT NULL,
    stage TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY(run_id, shard, stage),
    FOREIGN KEY(run_id, shard) REFERENCES merged(run_id, shard) ON DELETE CASCADE
) WITHOUT ROWID
"""

# Embeddings of texts by themselves (a question, an answer, an evaluation prompt), each once; which embeddings a run
# chooses by, where they are not its student's; and of the texts trained on, how many mean what a prompt does (null
# where that was not looked for).
_TEXT_EMBEDDINGS = """
CREATE TABLE text_embedding(
    key BLOB PRIMARY KEY,               -- of the model and what it read
    vector BLOB NOT NULL                -- float16, the lowest byte first
);
CREATE INDEX embedding_setting ON embedding(setting_id, variant_id);
ALTER TABLE run ADD COLUMN embedding_setting_id INTEGER REFERENCES scoring_setting(id);
ALTER TABLE contamination ADD COLUMN meaning INTEGER
"""

# A run asks at its end for texts by hand that nobody has scored. They are few among all texts; by ``variant_by_hand``
# they are found from a sample, and by this one all of them.
_BY_HAND = "CREATE INDEX variant_all_by_hand ON variant(kind) WHERE kind = 'manual'"

# By how much each choice was made, which its scores say: to sort a million samples by it they are not read again.
_MARGINS = """
ALTER TABLE decision ADD COLUMN margin REAL;
UPDATE decision SET margin = margin(CAST(compared AS BLOB), chosen_id, reflected, stage,
    (SELECT CAST(r.recipe AS BLOB) FROM run r WHERE r.id = run_id))
"""

SCRIPTS = {
    "0001_initial": INITIAL,
    "0002_dashboard": _DASHBOARD,
    "0003_evaluation": _EVALUATION,
    "0004_training": _TRAINING,
    "0005_endings": _ENDINGS,
    "0006_template_version": _TEMPLATE_VERSION,
    "0007_safety": _SAFETY,
    "0008_figures": FIGURES,
    "0009_given_up": _GIVEN_UP,
    "0010_gates": GATES,
    "0011_whole_datasets": _WHOLE_DATASETS,
    "0012_embeddings": _EMBEDDINGS,
    "0013_conversations": _CONVERSATIONS,
    "0014_calibration": _CALIBRATION,
    "0015_pilot": _PILOT,
    "0016_whose_scores": _WHOSE_SCORES,
    "0017_scale": _SCALE,
    "0018_text_embeddings": _TEXT_EMBEDDINGS,
    "0019_by_hand": _BY_HAND,
    "0020_margins": _MARGINS,
}
"""By migration, what it runs; forward only, and never changed once released."""


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
        teach_margin(db.conn)
        for statement in statements(script):
            db.conn.execute(statement)

    migrations(name=name)(run)


for _name, _script in SCRIPTS.items():
    _add(_name, _script)
