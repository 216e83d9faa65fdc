"""What ``--json`` prints: one table, which docs/json.md is made from and each document is held against.

Every document is one line with an object in it. It says the version of these shapes (``srtui_json``), what it is
(``type``), and has that type's keys. A key that goes, or means something else, takes a new version; one that is added
does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

JSON_VERSION = 1


@dataclass(frozen=True)
class Document:
    """A type of document: the commands that print it, what it is, the keys that it always has, and those that it may
    have. ``more`` says which others there can be beside them, where there are any."""

    commands: tuple[str, ...]
    what: str
    keys: tuple[str, ...]
    may: tuple[str, ...] = ()
    more: str = ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_EVALUATIONS = _words("eval.pairwise eval.winrate eval.turns eval.calibrate eval.choice eval.human eval.show")
_WORK = _words("run resume retrain pilot ablate") + _EVALUATIONS[:-1] + ("choose.calibrate",)

DOCUMENTS = {
    # -- runs
    "progress": Document(
        _WORK,
        "how far a stage is, while it works",
        _words("stage done total tokens seconds"),
        more="what the stage counts: slots, reused, parsed, taken, loss and the like",
    ),
    "event": Document(_WORK, "a sentence while it works; level is info, warning or error", _words("level message")),
    "summary": Document(
        _words("run resume retrain status"),
        "a run's figures, the last line of run, resume and retrain",
        _words(
            "run status stage error samples held_out teacher student quantization reflections accepted ifd rifd "
            "kept_scores length endings kept kept_held_out overruled dropped truncated training stages peak_memory_mb "
            "seconds rounds gated contamination measures workers"
        ),
    ),
    "runs": Document(("status",), "the summaries of all runs", ("runs",)),
    "scores": Document(("scores",), "how scores are spread, by kind of variant", _words("run scores")),
    "templates": Document(("scores",), "with --templates: scores under each prompt template", _words("run templates")),
    "pilot": Document(
        ("pilot",),
        "what a pilot came to, its last line",
        _words(
            "run recipe teacher student samples of strata targets limits kept gates active_gates template "
            "at_or_over_one forecast examples verdict calibrated own_rating"
        ),
    ),
    "diff": Document(
        ("diff",),
        "two runs beside each other",
        _words("a b recipe shared only_a only_b otherwise kept_a kept_b held_out samples"),
    ),
    "ablation": Document(("ablate",), "the arms compared, the last line", _words("recipe steps seeds sets rows words")),
    "report": Document(
        ("report",),
        "all that a report shows",
        _words(
            "run version seed summary models prompts dataset sources flow changes spreads overruled examples training "
            "costs evaluations calibrations warnings map has_control open"
        ),
    ),
    "answers": Document(("chat",), "one instruction, answered before and after training", _words("instruction base tuned")),
    "ready": Document(("chat",), "with --stream: the student is loaded", ("run",)),
    "prompt": Document(("chat",), "with --stream: the prompt as the student sees it", ("text",)),
    "piece": Document(("chat",), "with --stream: what base or tuned wrote next", _words("side text")),
    # -- data
    "workspace": Document(("init",), "the folder, and the files that were written", _words("path written")),
    "import": Document(
        ("import",),
        "what came in",
        _words("dataset_id dataset read new duplicate bad unmatched already conversations turns left_out"),
        ("near_duplicates",),
    ),
    "sample": Document(
        ("show",),
        "one sample: variants, scores, decisions",
        _words("sample dataset row conversation history variants generations runs"),
    ),
    "export": Document(
        ("export",), "the file that was written; chosen and left_out of preference pairs alone",
        _words("run path format rows"), _words("chosen left_out"),
    ),
    "gate-trials": Document(
        ("data.gates",), "which rewrites each gate would stop", _words("run rewrites taken any_stopped any_taken gates")
    ),
    "near-duplicates": Document(
        ("data.dedup",), "groups of near-duplicates", _words("groups group_count"),
        more="how they were looked for and counted",
    ),
    "embeddings": Document(("data.embed",), "how many samples have one", _words("dataset samples embedded")),
    "neighbours": Document(("data.neighbours",), "the samples that mean nearly the same", _words("sample neighbours")),
    "overlaps": Document(
        ("data.decontaminate",),
        "evaluation prompts found in samples, and counts by kind",
        _words("prompts samples question long short found"),
        ("meaning",),
    ),
    "taken-back": Document(
        _words("data.dedup data.decontaminate"), "with --undo: the samples that count again", _words("datasets samples")
    ),
    "look": Document(
        ("data.look",), "a data set before and after", _words("dataset run left_out near_duplicates before after map")
    ),
    # -- evaluation
    "evaluation": Document(
        _EVALUATIONS,
        "one evaluation with its result",
        _words(
            "id kind fingerprint contestant_a contestant_b identity_a identity_b run_a_id run_b_id judge "
            "judge_identity source source_sha256 settings state stage done total error result created_at started_at "
            "finished_at"
        ),
        ("judgements",),
    ),
    "evaluations": Document(("eval.list",), "all evaluations", ("evaluations",)),
    "anchors": Document(
        ("eval.anchors",), "the table that was written", _words("path difficulties models gamed_rows")
    ),
    "choice-calibration": Document(
        ("choose.calibrate",),
        "what each measure is worth on known preferences",
        _words("id source pairs measures"),
        more="the rest of the stored result (docs/method.md)",
    ),
    # -- models and the machine
    "models": Document(_words("models.list models.add"), "models of the workspace", ("models",)),
    "model": Document(
        ("models.inspect",),
        "one model",
        _words(
            "path kind name role architecture parameters quantization context chat_template licence size sha256 shape"
        ),
    ),
    "model-file": Document(("models.quantize",), "the file that was written", _words("path size")),
    "model-export": Document(
        ("export-model",),
        "the tuned student, and how to use it",
        _words("form path files size base stored tokenizer seconds prompt use"),
    ),
    "tunings": Document(("models.tune",), "tokens a second by file and slots", ("tunings",)),
    "fit": Document(("models.fit",), "what lies on each card in each stage", _words("recipe cards")),
    "check": Document(("doctor",), "one check, a line each; mend says what to do", _words("name ok detail mend")),
    "store": Document(("db",), "the store's file and rows", _words("path bytes pages_in_log rows")),
    "store-check": Document(("db.check",), "whether the store is sound", _words("path sound texts checked problems")),
    "backup": Document(("db.backup",), "the copy", _words("path rows")),
    "merge": Document(("db.merge",), "the run that shards became", _words("run shards samples settled")),
    "bundle": Document(("bundle",), "the folder that was made", _words("path files size")),
    "bundle-plan": Document(("bundle",), "with --dry-run: what would be fetched", _words("wheels models size unknown")),
    "recipe-key": Document(
        ("recipes",), "one key of recipes", _words("name default values unit what change source")
    ),
    "recipe-keys": Document(("recipes",), "several keys of recipes", ("keys",)),
}  # fmt: skip


def check_keys(type_: str, fields: Mapping[str, Any]) -> None:
    """Hold a document against the table. Raises ValueError where it says something else: scripts would stumble."""
    document = DOCUMENTS[type_]
    there = set(fields)
    missing = set(document.keys) - there
    unknown = set() if document.more else there - set(document.keys) - set(document.may)
    if missing or unknown or there & {"srtui_json", "type"}:
        raise ValueError(f"--json {type_}: missing {sorted(missing)}, not in the table {sorted(unknown)}")


def markdown() -> str:
    """docs/json.md."""
    lines = [_HEAD.format(version=JSON_VERSION)]
    for name, d in DOCUMENTS.items():
        commands = ", ".join(f"`srtui {c.replace('.', ' ')}`" for c in d.commands)
        keys = ", ".join(f"`{k}`" for k in d.keys)
        if d.may:
            keys += "; at times " + ", ".join(f"`{k}`" for k in d.may)
        if d.more:
            keys += f"; and {d.more}"
        lines.append(f"| `{name}` | {commands} | {d.what} | {keys} |")
    return "\n".join(lines) + "\n" + _TAIL


_HEAD = """# What `--json` prints

<!-- Made by tools/pages.py from srtui/cli/documents.py; tests/test_pages.py compares. -->

Every command whose result a script may want has `--json`. Then stdout has JSON documents and nothing else: one object a line, in UTF-8. Each begins with

- `srtui_json`: the version of these shapes, {version} today. A key that goes or changes its meaning raises it; a key that is added does not, so read the keys that you know and leave the others.
- `type`: what the document is, as in the table.

The exit code is 0; 2 with one sentence on stderr where something is to be put right; 130 where the work was stopped (the same command resumes). Numbers that are not finite are `null`. Times are seconds, moments seconds since 1970, sizes bytes unless a key says otherwise.

**While it works:** `run`, `resume`, `retrain`, `pilot` and `ablate` print `progress` and `event` lines on stdout, and their result is the last line. `eval ...` and `choose calibrate` print the same lines on stderr, so that stdout is one document.

```sh
srtui status --json | jq -r '.runs[] | [.run, .status, .kept] | @tsv'
srtui run recipes/quickstart.toml --json | jq -r 'select(.type == "summary") | .kept'
srtui pilot recipes/quickstart.toml --json | jq -r 'select(.type == "pilot") | .verdict.word'
```

| type | printed by | what it is | keys beside `srtui_json` and `type` |
| --- | --- | --- | --- |"""

_TAIL = """
What lies within a key is named in the same words as everywhere: [figures.md](figures.md) for a run's figures, [evaluation.md](evaluation.md) for results of evaluations, [method.md](method.md) for measures and their calibration.
"""
