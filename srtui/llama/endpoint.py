"""A teacher that is already running: a server on this machine that completes raw text (vLLM, SGLang, llama-server,
LM Studio, Ollama), asked over HTTP in the form of OpenAI's ``/completions``.

Chat templates are applied here, and each segment of a guided answer is a completion of all that stands before it,
with its own stops and the request's seed; servers keep what they have read of a prompt, so little is read twice.
The server gets text, in which it takes the names of special tokens for those tokens. So a sample that spells a
marker of the chat template is refused, and not asked about.

What the server's weights are cannot be hashed: the identity has the model's name, and what the server reports of
itself.
"""

from __future__ import annotations

import heapq
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

from srtui.errors import UserError
from srtui.hashing import key
from srtui.llama import (
    Generation,
    Prepared,
    Request,
    Segment,
    TeacherIdentity,
    TeacherProgress,
    WrittenSegment,
)
from srtui.llama.chat_prompt import TeacherTemplate
from srtui.llama.http import Connections, HttpResponse, NoAnswer
from srtui.recipe.server_address import Address

UNHASHED = "unhashed:"
"""What a teacher's sha256 begins with where its weights are a server's, and cannot be hashed."""
_IN_FLIGHT = 32  # requests at a time, where the recipe does not say: servers batch what comes together
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0  # seconds before asking again
_PATIENCE = 600.0  # seconds without any answer, after which the run ends with a sentence
_MARKER = re.compile(r"<[|｜]?[\w▁ ./-]{1,40}[|｜]?>|\[/?[A-Z_]{3,24}\]")
_TOO_LONG = re.compile(r"context|too long|maximum.{0,20}(length|tokens)|exceed", re.IGNORECASE)
_LOOK = 0.05  # seconds between two looks at whether to stop


class _GivenUp(Exception):
    """Nobody waits for this answer any more."""


@dataclass(frozen=True)
class _Asked:
    """One candidate of a request, with its prompt as text; ``marker`` is what of the template its data spells."""

    request: Request
    candidate: int
    prompt: str
    marker: str | None = None


class EndpointTeacher:
    """A server's model that writes many answers at once. See :class:`srtui.llama.Teacher`.

    Raises UserError where the server does not answer, or has no such model.
    """

    def __init__(
        self,
        address: Address,
        *,
        model: str,
        template: str | None = None,
        in_flight: int | Literal["auto"] = "auto",
        patience: float = _PATIENCE,
        report_line: Callable[[str, str], None] = lambda level, message: None,
    ) -> None:
        """``template`` is the chat template's source; None asks the server for its own."""
        self._in_flight = _IN_FLIGHT if in_flight == "auto" else in_flight
        self._patience, self._report_line = patience, report_line
        self._connections = Connections(address)
        self._where = str(address)
        name, reported = self._model(model)
        source = template or reported.pop("chat_template", None)
        reported.pop("chat_template", None)
        if not source:
            raise UserError(
                f"{self._where} does not say which chat template {name} has; name a model of models/ that has it, or a "
                ".jinja file, as teacher.chat_template."
            )
        # A server puts the beginning-of-text token in front of what it completes.
        self._template = TeacherTemplate(source)
        self._may_think = "think>" in source
        digest = key("endpoint", name=name, reported=reported, template=source).hex()
        self.identity = TeacherIdentity(
            name=name,
            sha256=UNHASHED + digest[2:],
            architecture="",
            parameters=0,
            quantization="",
            context=int(reported.get("context") or 0),
            date=self._template.date,
            endpoint=self._where,
        )
        self._name = name
        self._waiting: list[tuple[int, int, _Asked]] = []
        self._numbers = count()
        self._threads = ThreadPoolExecutor(self._in_flight, "srtui-endpoint")
        self._results: queue.Queue[tuple[int, Generation | BaseException]] = queue.Queue()
        self._round = self._running = 0  # what an earlier round still brings is not of this one
        self._answered_at = time.monotonic()
        self._is_silent = False
        self._closed = False
        self._lock = threading.Lock()
        self._prompt_tokens = self._new_tokens = 0
        self._live: tuple[object | None, str] = (None, "")

    # -- the Teacher protocol ---------------------------------------------------------------

    @property
    def window(self) -> int:
        """Sixteen requests for each that is on its way."""
        return max(512, 16 * self._in_flight)

    def prepare(self, request: Request) -> Prepared:
        """Lay the prompt out; the server cuts it into tokens."""
        led = bool(request.segments[0].lead)
        pieces = self._template.pieces(request.messages, led=led)
        markers = {m for text, is_data in pieces if not is_data for m in _MARKER.findall(text)}
        data = "".join(text for text, is_data in pieces if is_data)
        marker = next((m for m in sorted(markers) if m in data), None)
        prompt = "".join(text for text, _ in pieces)
        return Prepared(request, [_Asked(request, n, prompt, marker) for n in range(request.candidates)])

    def submit(self, requests: Sequence[Request | Prepared]) -> None:
        """See :meth:`srtui.llama.Teacher.submit`; the longest go first."""
        for request in requests:
            ready = request if isinstance(request, Prepared) else self.prepare(request)
            for candidate in ready.work:  # type: ignore[attr-defined]
                size = len(candidate.prompt) // 4 + sum(s.max_tokens for s in ready.request.segments)
                heapq.heappush(self._waiting, (-size, next(self._numbers), candidate))

    def room(self, request: Request) -> Sequence[int]:
        """All that is asked for: a server refuses what is too long for it, and says so."""
        return [s.max_tokens for s in request.segments]

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Generation]:
        """Yield generations as they come. Stops at once when asked; what is on its way is then dropped."""
        self._round += 1
        self._running = 0
        self._answered_at = time.monotonic()
        try:
            while self._waiting or self._running:
                while self._waiting and self._running < self._in_flight:
                    candidate = heapq.heappop(self._waiting)[2]
                    self._running += 1
                    self._threads.submit(self._work, self._round, candidate)
                if should_stop():
                    return
                try:
                    of_round, result = self._results.get(timeout=_LOOK)
                except queue.Empty:
                    self._raise_if_silent()
                    continue
                if of_round != self._round:
                    continue
                self._running -= 1
                if isinstance(result, BaseException):
                    raise result
                self._live = (result.key, result.text)
                yield result
        finally:
            self._round += 1  # what is on its way is nobody's any more
            self._running = 0
            self._waiting.clear()
            self._connections.drop()

    def progress(self) -> TeacherProgress:
        """See :meth:`srtui.llama.Teacher.progress`."""
        return TeacherProgress(
            slots=self._in_flight,
            slots_in_use=self._running,
            waiting=len(self._waiting),
            prompt_tokens=self._prompt_tokens,
            prompt_tokens_saved=0,
            new_tokens=self._new_tokens,
            live_key=self._live[0],
            live_text=self._live[1],
        )

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        self._round += 1
        self._connections.drop()
        self._threads.shutdown(wait=True, cancel_futures=True)

    # -- asking -------------------------------------------------------------------------------

    def _work(self, of_round: int, candidate: _Asked) -> None:
        """One answer, by one of the threads."""
        try:
            self._results.put((of_round, self._write(of_round, candidate)))
        except _GivenUp:
            pass
        except BaseException as error:
            self._results.put((of_round, error))

    def _write(self, of_round: int, candidate: _Asked) -> Generation:
        request, began = candidate.request, time.perf_counter()
        unwritten = Generation(
            request.key,
            candidate.candidate,
            request.seed + candidate.candidate,
            (),
            "",
            "",
            candidate.prompt,
            0,
            0,
            0.0,
        )
        if candidate.marker is not None:
            detail = f"its text spells {candidate.marker!r}, which a server takes for its own marker"
            return replace(unwritten, refused="template_marker", detail=detail)
        text, thought, written = "", "", list[WrittenSegment]()
        prompt_tokens = new_tokens = 0
        for n, segment in enumerate(request.segments):
            text += segment.lead
            thinking = request.thinking_tokens if self._may_think and not n and not segment.lead else 0
            answer = self._complete(of_round, candidate, text, segment, thinking)
            if answer.too_long:
                return replace(unwritten, refused="too_long", detail=answer.too_long)
            answer_text = answer.text
            if thinking and "</think>" in answer_text:
                thought, _, answer_text = answer_text.partition("</think>")
            prompt_tokens = prompt_tokens or answer.prompt_tokens
            new_tokens += answer.new_tokens
            text += answer_text
            written.append(WrittenSegment(answer_text, answer.finish, answer.new_tokens, segment.max_tokens))
            if segment.whole and answer.finish == "length":
                break
        with self._lock:
            self._prompt_tokens += prompt_tokens
            self._new_tokens += new_tokens
        return replace(
            unwritten,
            written=tuple(written),
            text=text,
            thinking=thought.strip().removeprefix("<think>").strip(),
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            seconds=time.perf_counter() - began,
        )

    def _complete(
        self, of_round: int, candidate: _Asked, text: str, segment: Segment, thinking: int
    ) -> _Written:
        sampler = candidate.request.sampler
        body = {
            "model": self._name,
            "prompt": candidate.prompt + text,
            "max_tokens": segment.max_tokens + thinking,
            "temperature": sampler.temperature,
            "top_p": sampler.top_p,
            "top_k": sampler.top_k or -1,
            "min_p": sampler.min_p,
            # llama.cpp's servers and Ollama call it one way, vLLM and SGLang the other.
            "repeat_penalty": sampler.repeat_penalty,
            "repetition_penalty": sampler.repeat_penalty,
            "seed": candidate.request.seed + candidate.candidate,
            "stop": list(segment.stops) or None,
            "stream": False,
        }
        if segment.grammar:
            body["grammar"] = segment.grammar
        answer = self._patiently(of_round, body)
        if answer.status == 400 and _TOO_LONG.search(answer.error):
            return _Written("", "length", 0, 0, too_long=answer.error)
        if answer.status != 200:
            raise UserError(
                f"The teacher at {self._where} refuses a request ({answer.status}: {answer.error}); what was "
                "written is stored: look at the server, then resume the run."
            )
        return _written(answer.body, segment, self._where)

    def _patiently(self, of_round: int, body: Mapping[str, Any]) -> HttpResponse:
        """The server's answer; asked again, after longer and longer waits, while it is away, busy or at fault.
        The seed makes a second answer the same as a first that was lost on its way."""
        wait = _FIRST_WAIT
        while True:
            if of_round != self._round:
                raise _GivenUp
            try:
                answer = self._connections.post("/completions", body)
            except NoAnswer as error:
                self._note_silence(str(error))
            else:
                if answer.status != 429 and answer.status < 500:
                    self._answered_at, self._is_silent = time.monotonic(), False
                    return answer
                self._note_silence(f"it says {answer.status} {answer.error}")
            until = time.monotonic() + wait
            while time.monotonic() < until:
                if of_round != self._round:
                    raise _GivenUp
                time.sleep(_LOOK)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _note_silence(self, why: str) -> None:
        with self._lock:
            reported, self._is_silent, self._why = self._is_silent, True, why
        if not reported:
            self._pending = f"The teacher at {self._where} does not answer ({why}); it is asked again."

    _pending: str | None = None
    _why = ""

    def _raise_if_silent(self) -> None:
        """ReportLine, in the engine's own thread, what the others heard; raises UserError after long silence."""
        pending, self._pending = self._pending, None
        if pending:
            self._report_line("warning", pending)
        if self._is_silent and time.monotonic() - self._answered_at > self._patience:
            raise UserError(
                f"The teacher at {self._where} has not answered for {self._patience:,.0f} seconds ({self._why}); "
                "start it, then resume the run: what was written is stored."
            )

    def _model(self, requested: str) -> tuple[str, dict[str, Any]]:
        """The name of the model that is asked, and what the server reports of it and of itself."""
        try:
            answer = self._connections.get("/models")
        except NoAnswer as error:
            raise UserError(
                f"The teacher at {self._where} does not answer ({error}); start its server, or look at teacher.endpoint."
            ) from error
        listed = answer.body.get("data") if answer.status == 200 else None
        rows = (
            [m for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)]
            if isinstance(listed, list)
            else []
        )
        if not rows:
            raise UserError(
                f"{self._where}/models lists no model ({answer.status} {answer.error}); teacher.endpoint is the "
                "address of a server's OpenAI interface, which mostly ends in /v1."
            )
        names = [m["id"] for m in rows]
        name = requested if requested in names else names[0]
        if requested not in names:
            if len(names) > 1:
                raise UserError(
                    f"{self._where} has no model {requested!r}; set teacher.model to one that it has: {', '.join(names[:8])}."
                )
            self._report_line("info", f"{self._where} serves one model, {name}: it is the teacher.")
        row = rows[names.index(name)]
        reported: dict[str, Any] = {
            k: row[k] for k in ("owned_by", "root", "parent", "max_model_len", "quantization") if row.get(k)
        }
        reported["context"] = row.get("max_model_len") or (row.get("meta") or {}).get("n_ctx_train")
        with_properties = self._connections.properties()
        for word in ("chat_template", "model_path", "build_info"):
            if isinstance(with_properties.get(word), str):
                reported[word] = with_properties[word]
        return name, {k: v for k, v in reported.items() if isinstance(v, str | int)}


@dataclass(frozen=True)
class _Written:
    """What the server wrote of one segment."""

    text: str
    finish: str
    prompt_tokens: int
    new_tokens: int
    too_long: str = ""


def _written(body: Mapping[str, Any], segment: Segment, where: str) -> _Written:
    try:
        choice, usage = body["choices"][0], body.get("usage") or {}
        text, reason = choice["text"], choice.get("finish_reason")
        if not isinstance(text, str):
            raise TypeError
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where} answers in another form than /completions does; correct teacher.endpoint."
        ) from error
    if reason == "length":
        return _Written(text, "length", *tokens)
    stop_text = choice.get("stop_reason") or choice.get("stopping_word")
    # A server that leaves the stop in the text, or goes beyond it: what stands behind it is none of ours.
    places = [(text.find(stop), stop) for stop in segment.stops if stop in text]
    if places:
        place, stop = min(places)
        return _Written(text[:place], f"stop:{stop}", *tokens)
    return _Written(
        text,
        f"stop:{stop_text}" if isinstance(stop_text, str) and stop_text in segment.stops else "end",
        *tokens,
    )
