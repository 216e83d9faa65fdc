"""Is srtui true to the method? What can be counted of it, on real and tiny models, as one JSON line.

    python benchmarks/check_method.py [--run WORKSPACE] [--samples N] [--only PART ...]

- architectures: losses and gradients of every causal architecture, built tiny, beside the model's own (none wrong).
- examples_without_end: training examples, of real samples under every template and protocol, that neither end their
  turn nor were cut at the length.
- cut_rewrites_trained: texts that a run keeps although a segment of them ended by length or repetition. ``--run`` names
  a workspace whose runs are read; without it a short run of the demo's models is made.
- first_words_lost: answers whose target tokens do not decode to the whole answer (protocol ``default``).
- released_script_max_difference: nats a token, between protocol ``paper`` with the released prompts and what the
  authors' own functions give, over 40 samples under two templates, float32.
- alpaca_eval_raw_max_error: percentage points between our win rates of AlpacaEval's annotations and the published ones.
- alpaca_eval_controlled: the same with length taken out, [ours, published]; null where srtui gives none, and
  ``--anchors FILE`` brings a table of AlpacaEval's (docs/evaluation.md).

Data is read in ../shared/data. A part whose data or model is not there is null, with the reason on stderr. The exit
code is 1 where a count is not 0, a loss differs by more than 1e-3, or a raw rate is not the published one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from srtui.sample import Pair
    from srtui.store import Store

DATA = ROOT.parent / "shared" / "data"
STUDENT = ROOT / "models" / "smollm2-135m"
PROTOCOLS: tuple[Literal["default", "paper"], ...] = ("default", "paper")
STARTS = ("", " ", "\n", "\n\n", "\t", ":", ")", "(", "-", "#", '"', "\u3002", "\u65e5", "\U0001f642")
WORDS = ("Fine", "x", "7", "No.", "them", "\u65e5\u672c\u8a9e", "\U0001f642", "</s>", "<|im_end|>")
# AlpacaEval 1 and 2, and model: win rate, and with length taken out.
PUBLISHED = {
    "1_alpaca-7b": (26.46, 26.29),
    "1_recycled-wizardlm-7b-v2.0": (83.48, 51.10),
    "2_alpaca-7b": (2.59, 5.88),
    "2_Mixtral-8x7B-Instruct-v0.1_concise": (13.74, 22.96),
}


class AbsentError(Exception):
    """What a part needs is not here; the message says what."""


def architectures(_: argparse.Namespace) -> dict[str, int]:
    """How many architectures are packed, padded, refused, and wrong."""
    from benchmarks.check_architectures import survey

    found = survey()
    return {kind: len(found[kind]) for kind in ("packed", "padded", "refused", "wrong")}


def examples_without_end(options: argparse.Namespace) -> int:
    """Training examples that do not end their turn."""
    from srtui.prompts import TEMPLATE_NAMES, template
    from srtui.student import Invalid, SpanBuilder

    tokenizer, missing, seen = _tokenizer(), 0, 0
    for name, protocol in product(TEMPLATE_NAMES, PROTOCOLS):
        builder = SpanBuilder(tokenizer, template(name, tokenizer), protocol, 2048)
        end = tuple(builder.end_of_turn)
        for pair in _real_pairs(options.samples):
            span = builder.forward(pair)[0]
            if isinstance(span, Invalid):
                continue
            example = span.ended(builder.end_of_turn, 2048)
            seen += 1
            missing += not example.truncated and example.ids[-len(end) :] != end
    _say(f"{seen:,} training examples under {len(TEMPLATE_NAMES)} templates and {len(PROTOCOLS)} protocols")
    return missing


def first_words_lost(options: argparse.Namespace) -> int:
    """Answers of which the target has not every letter."""
    from srtui.prompts import TEMPLATE_NAMES, template
    from srtui.sample import Pair
    from srtui.student import Span, SpanBuilder

    tokenizer, lost, seen = _tokenizer(), 0, 0
    made = [Pair("Say it", "", start + word) for start, word in product(STARTS, WORDS)]
    for name in TEMPLATE_NAMES:
        builder = SpanBuilder(tokenizer, template(name, tokenizer), "default", 8192)
        for pair in (*made, *_real_pairs(options.samples)):
            span = builder.forward(pair)[0]
            seen += 1
            if not isinstance(span, Span):
                lost += 1
                continue
            ids = list(span.ids[-span.target : len(span.ids) - len(builder.end_of_turn)])
            text = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
            lost += text.lstrip(" ") != pair.response.lstrip(" ")
    _say(f"{seen:,} answers, {len(made)} of them of one word or with an odd start")
    return lost


def cut_rewrites_trained(options: argparse.Namespace) -> int:
    """Kept texts of which a segment was cut."""
    from srtui.store import Store

    if options.run is not None:
        path = options.run / "store" / "srtui.sqlite" if options.run.is_dir() else options.run
        if not path.is_file():
            raise AbsentError(f"{path} is no store")
        with Store(path, read_only=True) as store:
            return _cut_in(store)
    with tempfile.TemporaryDirectory() as folder:
        return _cut_in(_short_run(Path(folder)))


def _cut_in(store: Store) -> int:
    """Over all generations behind each kept text: a rewritten answer's, and its instruction's."""
    from srtui.store.endings import CUT

    cut = kept = 0
    for run in store.runs.all():
        for _, variant_id in store.work.selected(run.id):
            at: int | None = variant_id
            kept += 1
            found = False
            while at is not None:
                row = store.row(
                    "SELECT v.parent_id, v.kind, v.response, g.finish, g.segments, g.text FROM variant v "
                    "LEFT JOIN generation g ON g.id = v.generation_id WHERE v.id = ?",
                    (at,),
                )
                if row["finish"] is not None:
                    ended = [part for part in json.loads(row["segments"] or "[]") if part[0] != "critique"]
                    # Behind a whole answer a marker stands, and what was cut is behind that.
                    tail = row["text"].rstrip().endswith(row["response"].rstrip())
                    found |= any(how in CUT and (tail or part == "instruction") for part, how, *_ in ended)
                    found |= row["segments"] is None and row["finish"] in CUT
                at = None if row["kind"] == "manual" else row["parent_id"]
            cut += found
    _say(f"{kept:,} kept texts of {len(store.runs.all())} runs")
    return cut


def _short_run(folder: Path) -> Store:
    """Reflection and choice on a few of the demo's samples, with room so short that texts are cut."""
    from srtui import recipe as recipes
    from srtui.pipeline import Engine, prepare
    from srtui.store import Store
    from srtui.workspace import Workspace

    teacher = ROOT / "models" / f"{STUDENT.name}.Q8_0.gguf"
    if not teacher.exists() or not STUDENT.is_dir():
        raise AbsentError(f"the demo model is not there: srtui models add {STUDENT.name}")
    workspace, _ = Workspace.create(folder / "workspace")
    for source in (teacher, STUDENT):
        (workspace.models / source.name).symlink_to(source.resolve())
    path = workspace.recipes / "quickstart.toml"
    short = ["training.enabled=false", "selection.policy=keep", "reflection.answer_tokens=64"]
    short += ["reflection.critique_tokens=24", "student.quantization=f32"]
    recipe = recipes.load(path, short, limit=6)
    store = Store(workspace.store_path)
    run, _ = prepare(workspace, store, recipe, path)
    Engine(workspace, store, run, _Quiet()).work()
    return store


class _Quiet:
    def progress(self, progress: object) -> None:
        """Nothing is shown."""

    def event(self, level: str, message: str) -> None:
        if level != "info":
            _say(f"{level}: {message}")


def released_script_max_difference(options: argparse.Namespace) -> float:
    """The largest difference of a loss from the released functions', in nats a token."""
    from srtui.prompts import template
    from srtui.prompts.released import released_prompts
    from srtui.sample import Pair
    from srtui.student import Invalid, Scorer, Span, SpanBuilder, Student

    rows = json.loads(_data("alpaca_cherry_3k.json").read_text(encoding="utf-8"))
    known = [json.loads(line) for line in _data("released_scores.jsonl").read_text().splitlines()]
    prompts = released_prompts([_data("released_prompts.json")])
    _tokenizer()  # says what is missing
    student = Student.load(STUDENT, "f32", "cpu")
    where: dict[Span, int] = {}
    wanted: list[tuple[Span, float]] = []
    for entry in known:
        row = rows[entry["sample"]]
        pair = Pair(row["instruction"], row.get("input") or "", row["output"])
        words = template(entry["template"], student.tokenizer, prompts)
        builder = SpanBuilder(student.tokenizer, words, "paper", 2048)
        names = ("loss_y_given_x", "loss_y", "loss_x_given_y", "loss_x")
        for name, span in zip(names, (*builder.forward(pair), *builder.reverse(pair)), strict=True):
            if isinstance(span, Invalid):
                return float("inf")  # theirs has a loss here
            where.setdefault(span, len(where))
            wanted.append((span, entry[name]))
    losses: dict[int, float] = {}
    for n, loss in Scorer(student).score(list(where)):
        losses[n] = loss.mean if loss.reason is None else float("inf")
        if len(losses) % 40 == 0:
            _say(f"{len(losses)} of {len(where)} spans are scored")
    return max(abs(losses[where[span]] - value) for span, value in wanted)


def alpaca_eval_raw_max_error(_: argparse.Namespace) -> float:
    """Percentage points."""
    from srtui.evaluation.length_control import raw_rate

    rates = {name: raw_rate(_annotated(name)) for name in PUBLISHED}
    # Theirs are published with two digits.
    return max(abs(round(100 * (rates[name] or 0.0), 2) - raw) for name, (raw, _) in PUBLISHED.items())


def alpaca_eval_controlled(options: argparse.Namespace) -> dict[str, list[float | None]]:
    """By model: our controlled win rate in per cent, or None where there is none, and the published one."""
    from srtui.evaluation.anchors import read_anchors
    from srtui.evaluation.length_control import controlled_rate

    anchors = read_anchors(options.anchors) if options.anchors else None
    found: dict[str, list[float | None]] = {}
    for name, (_, published) in PUBLISHED.items():
        # AlpacaEval takes AlpacaEval 2's table for AlpacaEval 1's published rates too.
        made = controlled_rate(_annotated(name), anchors)
        value = made["win_rate"]["value"]
        if value is None:
            _say(f"{name}: no controlled rate ({made['reason']})")
        found[name] = [None if value is None else round(100 * value, 2), published]
    return found


def _annotated(name: str) -> Any:
    from srtui.evaluation.length_control import alpaca_rows

    lines = _data(f"alpaca_eval/judged_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return alpaca_rows([json.loads(line) for line in lines])


def _data(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        raise AbsentError(f"{path} is not there")
    return path


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    if not (STUDENT / "tokenizer.json").exists():
        raise AbsentError(f"the demo model is not there: srtui models add {STUDENT.name}")
    return AutoTokenizer.from_pretrained(STUDENT, local_files_only=True)


def _real_pairs(count: int) -> Iterator[Pair]:
    """Real samples, spread over the file; the demo's where the real data is not at hand."""
    from srtui.sample import Pair

    real = DATA / "alpaca_cherry_3k.json"
    if real.exists():
        rows = json.loads(real.read_text(encoding="utf-8"))
    else:
        lines = (ROOT / "recipes" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    for row in rows[:: max(1, len(rows) // count)][:count]:
        yield Pair(row["instruction"], row.get("input") or "", row["output"])


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    part.__name__: part
    for part in (
        architectures,
        examples_without_end,
        cut_rewrites_trained,
        first_words_lost,
        released_script_max_difference,
        alpaca_eval_raw_max_error,
        alpaca_eval_controlled,
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="a workspace, or its store, whose runs are read")
    parser.add_argument("--samples", type=int, default=200, help="real samples for what only tokenises")
    parser.add_argument("--anchors", type=Path, help="AlpacaEval's table of difficulties and gamed rows")
    parser.add_argument("--only", choices=PARTS, nargs="+", help="these parts; the others are null")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from srtui.workspace import go_offline

    go_offline()
    result: dict[str, Any] = {"check": "method"}
    for name, part in PARTS.items():
        result[name] = None
        if options.only and name not in options.only:
            continue
        began = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            result[name] = part(options)
        except AbsentError as error:
            _say(f"null: {error}")
            continue
        _say(f"{json.dumps(result[name])} in {time.monotonic() - began:.0f} s")
    print(json.dumps(result))
    return int(_is_off(result))


def _is_off(result: dict[str, Any]) -> bool:
    """Whether a figure is not what it has to be; a part that is null says nothing."""
    counts = ("examples_without_end", "cut_rewrites_trained", "first_words_lost")
    limits = {"released_script_max_difference": 1e-3, "alpaca_eval_raw_max_error": 0.005}
    return (
        bool((result["architectures"] or {}).get("wrong"))
        or any(result[name] for name in counts)
        or any((result[name] or 0.0) > most for name, most in limits.items())
    )


if __name__ == "__main__":
    raise SystemExit(main())
