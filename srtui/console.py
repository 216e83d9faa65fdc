"""How the command line shows things: a live display on a terminal, plain lines or JSON elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from srtui.noise import screen
from srtui.store.figures import LABELS
from srtui.text import safe

__all__ = ["Face", "err", "out", "plain", "safe"]

# What markup would take for its own, in text that is none. Rich's own escapes lose some backslashes;
# private-use characters cannot be in a text that was made safe, so these two stand for nothing else.
_TAKEN = str.maketrans({"[": "\ue05b", "\\": "\ue05c"})
_GIVEN_BACK = {0xE05B: "[", 0xE05C: "\\"}


class Face(Console):
    """Rich's console for the sentences of this program: styles in markup, and texts by :func:`plain`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    @property
    def file(self) -> IO[str]:
        """Of ``err``, the screen also while the libraries' standard error goes to a log."""
        return screen() if self.stderr and self._file is None else super().file

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new

    def render_str(self, text: str, **options: Any) -> Text:
        made = super().render_str(text, **options)
        if not made.plain.isascii():
            made.plain = made.plain.translate(_GIVEN_BACK)
        return made


out = Face()
err = Face(stderr=True)


def plain(text: str) -> str:
    """``safe``, for a place in markup where the text is to stand as it is."""
    return safe(text).translate(_TAKEN)


def duration(seconds: float) -> str:
    """1 h 02 min, 3 min 20 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_text(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


_TITLES = {
    "check-template": "Check the prompt template",
    "reflect-instruction": "Reflect on instructions",
    "choose-instruction": "Choose instructions (IFD)",
    "reflect-response": "Reflect on answers",
    "choose-response": "Choose answers (r-IFD)",
    "train": "Train the student (QLoRA)",
    "answers-a": "Answers of A",
    "answers-b": "Answers of B",
    "judge": "Judge",
    "judge-words": "The judge's words",
    "choice": "Multiple choice",
}


def title(stage: str) -> str:
    return _TITLES.get(stage, stage)


def _facts(detail: dict[str, Any]) -> str:
    facts = []
    if "parsed" in detail:
        facts.append(f"parsed {detail['parsed'] + detail['retried']}, unparsed {detail['unparsed']}")
    if detail.get("slots_in_use"):
        facts.append(f"{detail['slots_in_use']}/{detail['slots']} slots")
    if "taken" in detail:
        facts.append(f"taken {detail['taken']}")
    if "loss" in detail:
        facts.append(f"loss {detail['loss']:.3f}")
    return ", ".join(facts)


class _Rate:
    """Units a second over this process's part of a stage, for the ETA."""

    def __init__(self) -> None:
        self.stage, self.first_done, self.began = "", 0, 0.0

    def eta(self, progress: Any) -> str:
        if progress.stage != self.stage:
            self.stage, self.first_done, self.began = progress.stage, progress.done, time.monotonic()
        made, spent = progress.done - self.first_done, time.monotonic() - self.began
        left = progress.total - progress.done
        if made <= 0 or spent < 1 or left <= 0:
            return ""
        return f"{duration(left * spent / made)} left"


class LiveReporter:
    """A progress display for a terminal, one bar a stage."""

    def __init__(self) -> None:
        self._rate = _Rate()
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[rate]}", style="cyan"),
            TextColumn("{task.fields[eta]}", style="magenta"),
            TextColumn("{task.fields[facts]}", style="dim"),
            console=out,
            expand=True,
            redirect_stderr=False,  # srtui.noise does
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> LiveReporter:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def progress(self, progress: Any) -> None:
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(
                title(progress.stage), total=progress.total, rate="", eta="", facts=""
            )
        self._bars.update(
            self._tasks[progress.stage],
            completed=progress.done,
            total=progress.total,
            rate=f"{progress.rate:.0f} tok/s" if progress.rate else "",
            eta=self._rate.eta(progress),
            facts=_facts(progress.detail),
        )

    def event(self, level: str, message: str) -> None:
        colour = {"warning": "yellow", "error": "red"}.get(level, "dim")
        self._bars.console.print(f"[{colour}]{level}: {plain(message)}[/]")


class PlainReporter:
    """A line every few seconds and at the end of each stage, for pipes and logs."""

    def __init__(self) -> None:
        self._rate, self._said, self._last = _Rate(), 0.0, ("", -1)

    def __enter__(self) -> PlainReporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def progress(self, progress: Any) -> None:
        eta = self._rate.eta(progress)
        finished = progress.done >= progress.total
        if (progress.stage, progress.done) == self._last or not (
            finished or time.monotonic() - self._said > 5
        ):
            return
        self._said, self._last = time.monotonic(), (progress.stage, progress.done)
        rate = f"{progress.rate:.0f} tok/s" if progress.rate else ""
        words = [w for w in (rate, _facts(progress.detail), eta) if w]
        line = f"{title(progress.stage)}: {progress.done}/{progress.total}  {', '.join(words)}".rstrip()
        print(safe(line), flush=True)

    def event(self, level: str, message: str) -> None:
        print(safe(f"{level}: {message}"), flush=True)


class JsonReporter:
    """One JSON object a line."""

    def __enter__(self) -> JsonReporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def progress(self, progress: Any) -> None:
        self._line(
            type="progress",
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            tokens=progress.tokens,
            seconds=round(progress.seconds, 2),
            **progress.detail,
        )

    def event(self, level: str, message: str) -> None:
        self._line(type="event", level=level, message=message)

    @staticmethod
    def _line(**values: Any) -> None:
        print(json.dumps(values), flush=True)


class Attended:
    """A face that may go away: a terminal that hangs up, a pipe that nobody reads. ``lost`` is called
    then, once, and nothing more is shown; the work itself never fails for it."""

    def __init__(self, face: LiveReporter | PlainReporter | JsonReporter, lost: Callable[[], None]) -> None:
        self._face, self._lost, self._gone = face, lost, False

    def __enter__(self) -> Attended:
        self._try(self._face.__enter__)
        return self

    def __exit__(self, *_: object) -> None:
        self._try(self._face.__exit__)

    def progress(self, progress: Any) -> None:
        self._try(self._face.progress, progress)

    def event(self, level: str, message: str) -> None:
        self._try(self._face.event, level, message)

    def _try(self, show: Callable[..., object], *what: object) -> None:
        if self._gone:
            return
        try:
            show(*what)
        except (OSError, ValueError):  # Python's word for a stream that was closed is ValueError
            self._gone = True
            self._lost()


def reporter(as_json: bool, lost: Callable[[], None]) -> Attended:
    """JSON lines, bars on a terminal, or plain lines; ``lost`` is called where nobody sees them any more."""
    if as_json:
        return Attended(JsonReporter(), lost)
    return Attended(LiveReporter() if out.is_terminal else PlainReporter(), lost)


def print_summary(figures: dict[str, Any], files: Iterable[tuple[str, str]]) -> None:
    """The summary at the end of a run; every figure comes from the store."""
    out.print()
    out.print(f"[bold]{plain(figures['run'])}[/]  {figures['status']}", soft_wrap=True)
    if figures["error"]:
        out.print(f"[red]{plain(figures['error'])}[/]", soft_wrap=True)
    _facts_table(_summary_rows(figures))
    stages = figures["stages"]
    if stages:
        table = Table(
            "stage", "done", "time", "tokens", "tokens/s", box=None, pad_edge=False, header_style="bold"
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for name in _TITLES:
            s = stages.get(name)
            if s:
                rate = f"{s['tokens'] / s['seconds']:,.0f}" if s["tokens"] and s["seconds"] else "-"
                table.add_row(
                    title(name),
                    f"{s['done']:,}/{s['total']:,}",
                    duration(s["seconds"]),
                    f"{s['tokens']:,}",
                    rate,
                )
        out.print()
        out.print(table)
        out.print(
            f"{duration(figures['seconds'])} in its stages, peak memory {bytes_text(figures['peak_memory_mb'] * 1e6)}"
        )
    if len(figures["rounds"]) > 1:
        out.print()
        _print_rounds(figures["rounds"])
    shown = list(files)
    if shown:
        out.print()
        for what, path in shown:
            out.print(f"{what}: {plain(path)}", soft_wrap=True)


def _print_rounds(rounds: Sequence[dict[str, Any]]) -> None:
    table = Table("round", "run", "teacher", box=None, pad_edge=False, header_style="bold")
    for name in ("parsed", "instructions", "answers", "kept", "IFD", "r-IFD", "held-out loss"):
        table.add_column(name, justify="right")
    for n, r in enumerate(rounds, 1):
        shares = [r["parsed_share"], r["taken_share"]["instruction"], r["taken_share"]["response"]]
        table.add_row(
            str(n),
            plain(r["run"]),
            plain(r["teacher"]),
            *("-" if s is None else f"{s:.0%}" for s in shares),
            f"{r['kept']:,}",
            number(r["ifd"]),
            number(r["rifd"]),
            f"{number(r['held_out_before'])} to {number(r['held_out_after'])}",
        )
    out.print(table)


def _facts_table(rows: list[tuple[str, str]]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(f"[dim]{name}[/]", value)
    out.print(grid)


def _summary_rows(f: dict[str, Any]) -> list[tuple[str, str]]:
    held = f", {f['held_out']:,} {LABELS['held out']}" if f["held_out"] else ""
    rows = [(LABELS["samples"], f"{f['samples']:,}{held}")]
    for stage, what in (("instruction", "instructions"), ("response", "answers")):
        r, a = f["reflections"][stage], f["accepted"][stage]
        failed = ", ".join(f"{n} {plain(why)}" for why, n in r["failed"].items())
        rows.append(
            (
                f"new {what} parsed",
                f"{r['first_try'] + r['after_retries']:,} of {r['asked']:,}: {r['first_try']:,} at the first try, "
                f"{r['after_retries']:,} after retries" + (f"; {failed}" if failed else ""),
            )
        )
        rows.append(
            (f"{what} taken", f"{a['taken']:,} of {a['choices']:,} ({share(a['taken'], a['choices'])})")
        )
    for key in ("ifd", "rifd"):
        s = f[key]
        over = f"mean over {s['samples']:,} with both"
        rows.append((LABELS[f"{key} before"], f"{number(s['before'])} ({over})"))
        rows.append((LABELS[key], f"{number(s['after'])} ({over})"))
        rows.append((LABELS[f"kept {key}"], f"{number(f['kept_scores'][key])} (mean)"))
    length = f["length"]
    rows.append(
        (
            "response length",
            f"{number(length['before'], 0)} characters in, {number(length['after'], 0)} in what is kept"
            + (
                f" ({length['after'] / length['before']:.1f} x)"
                if length["before"] and length["after"]
                else ""
            ),
        )
    )
    rows.append(
        (
            "with code",
            f"{share(length['code_before'] or 0, 1)} in, "
            + (share(length["code_after"], 1) if length["code_after"] is not None else "-")
            + " in what is kept",
        )
    )
    rows.append((LABELS["kept"], kept_words(f["kept"], f["samples"], f["kept_held_out"])))
    if f["overruled"]:
        rows.append((f"of these {LABELS['overruled']}", f"{f['overruled']:,}"))
    for why, n in f["dropped"].items():
        rows.append(("dropped", f"{n:,}  {plain(why)}"))
    endings = f["endings"]
    if endings["cut"]:
        rows.append(("cut short", f"{endings['cut']:,} of what is kept, by an older srtui"))
    if endings["unknown"]:
        words = "imported, or made by an older srtui: whether they were cut short is not known"
        rows.append(("ending unknown", f"{endings['unknown']:,} of what is kept, {words}"))
    if f["truncated"]:
        rows.append(("cut by max_length", f"{f['truncated']:,}"))
    t = f["training"]
    if t is not None:
        rows += _training_rows(t)
    return rows


def kept_words(kept: int, samples: int, held_out: int) -> str:
    """26 of 56 (46 %), 2 held out."""
    held = f", {held_out:,} {LABELS['held out']}" if held_out else ""
    return f"{kept:,} of {samples:,} ({share(kept, samples)}){held}"


def training_words(t: Mapping[str, Any]) -> list[str]:
    """What a training was, as every face says it: samples, losses of its first and last step, its pace;
    ``t`` as srtui.store.figures.training gives it."""
    changed = t["changed_since"]
    since = f", before a person changed {changed:,} choice{'' if changed == 1 else 's'}" if changed else ""
    words = [f"{LABELS['trained on']} {t['trained_on']:,} samples{since}"]
    if t["step_losses"]:
        first, last = t["step_losses"]
        words.append(f"{LABELS['step loss']} {number(first)} → {number(last)}")
    if t["tokens_a_second"]:
        words.append(f"{duration(t['seconds'])} {LABELS['step seconds']}")
        words.append(f"{t['tokens_a_second']:,.0f} {LABELS['step speed']}")
    return words


def _training_rows(t: dict[str, Any]) -> list[tuple[str, str]]:
    result = t["result"]
    if t["status"] != "done":
        return [("training", plain(t["status"]))]
    rows = [("training", f"{t['steps']:,} steps, " + ", ".join(training_words(t)))]
    if not result.get("changed", True):
        rows.append(("training", "changed nothing: the adapter is what it was made with"))
    for name, held in result.get("held_out", {}).items():
        rows.append(
            (
                f"held-out loss, {name}",
                f"{number(held['before'])} before, {number(held['after'])} after ({held['samples']} samples)",
            )
        )
    return rows


def progress_line(as_json: bool) -> tuple[Callable[[int, int, int], None], Callable[[], None]]:
    """A one-line import progress on a terminal (rows, share, rows/s, ETA), nothing elsewhere."""
    if as_json or not out.is_terminal:
        return (lambda rows, done, total: None), (lambda: None)
    began, shown = time.monotonic(), [0.0]

    def show(rows: int, done: int, total: int) -> None:
        now = time.monotonic()
        if now - began < 1 or now - shown[0] < 0.2:
            return
        shown[0] = now
        part = done / total if total else 0
        eta = duration((now - began) * (1 - part) / part) if part else "?"
        sys.stdout.write(f"\r\x1b[K{rows:,} rows, {part:.0%}, {rows / (now - began):,.0f} rows/s, {eta} left")
        sys.stdout.flush()

    def clear() -> None:
        if shown[0]:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    return show, clear


def print_models(entries: Iterable[Any], console: Console) -> None:
    """What is in models/, one line each."""
    rows = list(entries)
    if not rows:
        console.print("No models yet. Get the demo's with: srtui models add smollm2-135m")
        return
    table = Table("file", "kind", "params", "quant", "context", "size", box=None, header_style="bold")
    for entry in rows:
        info, file = entry.info, plain(entry.path.name)
        if info is None:
            console.print(f"[red]{file}: {plain(entry.problem or '?')}[/]", soft_wrap=True)
            continue
        table.add_row(
            file,
            plain(info.architecture),
            f"{info.parameters / 1e6:,.0f} M",
            plain(info.quantization),
            f"{info.context:,}" if info.context else "-",
            bytes_text(info.size),
        )
    console.print(table)


_METRICS = {"ifd": "IFD", "rifd": "r-IFD"}
_KINDS = {"instruction_reflected": "new instruction", "response_reflected": "new answer"}
_BARS = " ▁▂▃▄▅▆▇█"


def histogram_text(counts: Sequence[int]) -> str:
    """One character a bin, as high as its count; a bin with anything in it shows something."""
    most = max(counts, default=0)
    return "".join(_BARS[-(-8 * c // most)] if most else " " for c in counts)


def print_distributions(figures: Sequence[dict[str, Any]], console: Console) -> None:
    """Scores by metric and kind of variant, a line each, and what could not be scored."""
    table = Table("", "variants", box=None, header_style="bold")
    for name in ("scored", "25 %", "median", "75 %", "95 %", ">= 1"):
        table.add_column(name, justify="right")
    table.add_column("0    1    2", no_wrap=True)
    for f in figures:
        quantiles = [number(f["quantiles"].get(q)) for q in ("0.25", "0.5", "0.75", "0.95")]
        over = f"{f['at_or_over_one'] / f['scored']:.0%}" if f["scored"] else "-"
        bins = f["histogram"]
        bars = histogram_text([a + b for a, b in zip(bins[::2], bins[1::2], strict=True)])
        half = len(bars) // 2
        table.add_row(
            _METRICS[f["metric"]],
            _KINDS.get(f["kind"], f["kind"]),
            f"{f['scored']:,}",
            *quantiles,
            over,
            f"[green]{bars[:half]}[/]│[yellow]{bars[half:]}[/]",
        )
    console.print(table)
    for f in figures:
        what = f"{_METRICS[f['metric']]}, {_KINDS.get(f['kind'], f['kind'])}"
        if f["truncated"]:
            console.print(f"{what}: {f['truncated']:,} truncated at max_length")
        for reason, count in f["invalid"].items():
            console.print(f"{what}: {count:,} without a score ({plain(reason)})")


def print_templates(found: Sequence[dict[str, Any]], console: Console) -> None:
    """IFD of the same originals under each prompt template; the run's own is marked."""
    table = Table("template", box=None, header_style="bold")
    for name in ("scored", "median IFD", "IFD >= 1"):
        table.add_column(name, justify="right")
    for f in found:
        table.add_row(
            plain(f["template"]) + (" *" if f["chosen"] else ""),
            f"{f['scored']:,}",
            number(f["quantiles"].get("0.5")),
            f"{f['at_or_over_one'] / f['scored']:.0%}" if f["scored"] else plain(f.get("problem") or "-"),
        )
    console.print(table)
    console.print(
        "* is the run's own. A template that the student knows has the fewest at 1 or over.", style="dim"
    )


def print_comparison(found: Any, console: Console) -> None:
    """The arms of an ablation, their held-out losses, and what follows."""
    kinds = list(found.sets)
    table = Table("arm", "what", box=None, header_style="bold")
    judged = any(row.judged for row in found.rows)
    chosen = any(row.accuracy is not None for row in found.rows)
    more = [*(["win rate to full"] if judged else []), *(["accuracy", "to full"] if chosen else [])]
    for name in (
        "samples",
        "length",
        *(f"loss, {k}" for k in kinds),
        *(f"to full, {k}" for k in kinds),
        *more,
    ):
        table.add_column(name, justify="right", overflow="fold")
    for row in found.rows:
        if row.problem:
            table.add_row(row.arm, f"{row.words}: {plain(row.problem)}")
            continue
        differences = []
        for kind in kinds:
            i = row.against_full.get(kind)
            differences.append(f"{i.mean:+.3f} ({i.low:+.3f} to {i.high:+.3f})" if i else "")
        table.add_row(
            row.arm,
            row.words,
            f"{row.samples:,}" if row.runs else "",
            f"{row.mean_length:,.0f}" if row.runs else "",
            *(number(row.losses.get(kind)) for kind in kinds),
            *differences,
            *([_points(row.judged, 0.5)] if judged else []),
            *(["" if row.accuracy is None else f"{row.accuracy:.1%}", _points(row.choice)] if chosen else []),
        )
    console.print(table)
    console.print(
        f"{found.steps} steps each; losses in nats a token; length in characters; differences with 95 % intervals.",
        style="dim",
    )
    for sentence in found.words:
        console.print(sentence)


def _points(interval: Any, plus: float = 0.0) -> str:
    """A share with its interval, in per cent."""
    if interval is None:
        return ""
    sign = "" if plus else "+"
    value, low, high = (f"{x + plus:{sign}.1%}" for x in (interval.mean, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def print_tunings(tunings: Sequence[Any], console: Console) -> None:
    """Tokens a second by file and slots; what "auto" takes is marked."""
    counts = sorted({count for t in tunings for count in t.decode})
    table = Table(box=None, header_style="bold")
    table.add_column("file", overflow="fold")
    table.add_column("prompt", justify="right")
    for count in counts:
        table.add_column(f"{count} ", justify="right")
    for t in tunings:
        cells = [
            f"[bold]{t.decode[c]:,.0f}*[/]"
            if c == t.slots
            else (f"{t.decode[c]:,.0f} " if c in t.decode else "- ")
            for c in counts
        ]
        table.add_row(plain(t.file), f"{t.prompt:,.0f}", *cells)
    console.print(table)
    console.print(
        'Tokens a second on this machine, decoding by number of slots; * is what slots = "auto" takes.',
        style="dim",
    )


def print_model(info: Any) -> None:
    """One model as its own header describes it."""
    template = info.chat_template
    _facts_table(
        [
            ("file", plain(str(info.path.name))),
            ("name", plain(info.name)),
            ("architecture", plain(info.architecture)),
            ("parameters", f"{info.parameters:,}"),
            ("quantization", plain(info.quantization)),
            ("context", f"{info.context:,} tokens" if info.context else "-"),
            ("chat template", "none" if not template else f"{len(template):,} characters"),
            ("size", bytes_text(info.size)),
            ("licence", plain(info.licence or "not stated in the file")),
            ("sha256", info.sha256 or "-"),
        ]
    )
    if template:
        out.print(f"\n[dim]{plain(template)}[/]", soft_wrap=True)
