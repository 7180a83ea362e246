"""`ChatWidget`: a live chat about a picture, in the output of a notebook cell.

The browser (widget.js) shows the traits and sends messages. The kernel's threads put each message into a queue
and return immediately. One worker thread takes them in order, runs the model, and is the only one that sets
traits. So cells can run while an answer is written, and interrupting the kernel interrupts cells only; "Stop"
ends an answer.
"""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import anywidget
import traitlets
from typing_extensions import Unpack

from ..chat import Chat
from ..checkpoint.embedded import EMBEDDED
from ..display import picture_url
from ..errors import Blip2ChatError
from ..generation.settings import Decoding, Settings
from ..images import PictureLimits, PictureSource
from ..images.naming import NamedBytes, file_name
from ..model import Model
from ..sizes import amounts
from .locked import LockedEngine

_HERE = Path(__file__).parent
# Seconds between two updates of a growing answer or a loading bar; not every token needs an update.
_BETWEEN = 0.05
# Pixels of the longer side of the displayed picture.
_SHOWN = 640


class ChatWidget(anywidget.AnyWidget):
    """A live chat in a notebook: `ChatWidget(model)` as the last line of a cell.

    `model` may also be a name or folder, which is loaded in the background (`blip2_chat.load`) while the widget
    shows the progress. `picture` is the first picture; `settings` are those of `Decoding`, for all answers.
    `chat` is the conversation, a `blip2_chat.Chat`; `look_at` and `ask` do the same as the controls.
    """

    _esm = _HERE / "widget.js"
    _css = _HERE / "widget.css"

    label = traitlets.Unicode().tag(sync=True)  # the model, for display
    busy = traitlets.Unicode().tag(sync=True)  # the current activity, in words; "" if there is none
    amount = traitlets.Float(-1).tag(sync=True)  # its progress, 0 to 1; below 0 if unknown
    picture = traitlets.Dict().tag(sync=True)  # {"name", "src", "caption"}; {} before the first
    advice = traitlets.List(traitlets.Unicode()).tag(sync=True)
    turns = traitlets.List(traitlets.Dict()).tag(sync=True)  # [{"question", "answer", "note"}]
    asking = traitlets.Unicode().tag(sync=True)  # the question being answered
    partial = traitlets.Unicode().tag(sync=True)  # its answer so far
    error = traitlets.Unicode().tag(sync=True)  # one line, until the next action
    max_bytes = traitlets.Int(PictureLimits.max_bytes).tag(sync=True)  # limit on the size of a picture file

    def __init__(
        self,
        model: Model | str | Path = EMBEDDED,
        picture: PictureSource | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        Decoding.of(**settings)  # reports a wrong setting now, not at the first question
        super().__init__()
        self.chat: Chat | None = None
        self.model: Model | None = None
        self._settings = settings
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._stop = threading.Event()
        self._upload = bytearray()
        self._told = 0.0
        self.on_msg(_received)
        if isinstance(model, Model):
            self._use(model)
        else:
            self.label = str(model)
            self._jobs.put(lambda: self._load(model))
        if picture is not None:
            self._jobs.put(lambda: self._open(lambda: picture))
        threading.Thread(target=self._work, daemon=True, name="blip2-chat widget").start()

    # Requests from the browser or a cell. All return immediately.

    def look_at(self, picture: PictureSource) -> None:
        """Switches to another picture, and captions it."""
        self._stop.set()
        self._jobs.put(lambda: self._open(lambda: picture))

    def ask(self, question: str) -> None:
        """Asks about the picture."""
        self._jobs.put(lambda: self._ask(question))

    def stop(self) -> None:
        """Stops the current answer and keeps what was written."""
        self._stop.set()

    def undo(self) -> None:
        """Removes the last question."""
        self._stop.set()
        self._jobs.put(self._undo)

    def start_over(self) -> None:
        """Removes all questions; the picture stays."""
        self._stop.set()
        self._jobs.put(self._start_over)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until all requests are done; False if they are not after `seconds`."""
        done = threading.Event()
        self._jobs.put(done.set)
        return done.wait(seconds)

    def close(self) -> None:
        """Removes the widget and ends its thread. The model stays open."""
        if getattr(self, "_jobs", None) is not None:
            self._stop.set()
            self._jobs.put(None)
        super().close()

    # In the worker thread, one after another.

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _load(self, name: str | Path) -> None:
        from ..loading import load

        with self._doing(f"loading {name}"):
            self._use(load(name, on_progress=self._loading))

    def _use(self, model: Model) -> None:
        model.engine = LockedEngine.around(model.engine)
        self.model = model
        self.max_bytes = model.limits.max_bytes
        engine = model.engine
        self.label = f"{model.name} ({engine.name}, {engine.precision}, {engine.device})"

    def _open(self, source: Callable[[], PictureSource]) -> None:
        model = self.model
        if model is None:
            self.error = self.error or "there is no model to look at the picture"
            return
        with self._doing("opening the picture"):
            chat = model.chat(source(), **self._settings)
            self.chat = chat
            self.turns = []
            shown = picture_url(chat.picture.image, _SHOWN)
            self.picture = {"name": chat.picture.name, "src": shown, "caption": ""}
            self.advice = [one.message for one in chat.advice]
            self._stop.clear()  # before the Stop button becomes active
            self.busy = "looking at the picture"
            self._write(chat.stream_caption())
            self._show(chat)

    def _ask(self, question: str) -> None:
        chat = self.chat
        if chat is None:
            self.error = "there is no picture to ask about: choose one first"
            return
        self._stop.clear()
        with self._doing("answering"):
            self.asking = question
            try:
                self._write(chat.stream(question))
            finally:
                self._show(chat)

    def _undo(self) -> None:
        with self._doing("undoing"):
            if self.chat is not None and self.chat.turns and self.chat.turns[-1].question is not None:
                self.chat.undo()
                self._show(self.chat)

    def _start_over(self) -> None:
        with self._doing("starting over"):
            if self.chat is not None:
                self.chat.turns[:] = [turn for turn in self.chat.turns if turn.question is None]
                self._show(self.chat)

    def _save(self) -> None:
        with self._doing("saving"):
            if self.chat is None:
                raise Blip2ChatError("there is no conversation to save yet: choose a picture first")
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "conversation.json"
                self.chat.save(path)
                text = path.read_text(encoding="utf-8")
            name = f"{Path(self.chat.picture.name).stem or 'picture'}-conversation.json"
            self.send({"kind": "saved", "name": name, "text": text})

    def _write(self, pieces: Iterator[str]) -> None:
        text, drawn = "", 0.0
        with contextlib.closing(cast("Generator[str]", pieces)):
            for piece in pieces:
                text += piece
                if self._stop.is_set():
                    return
                if time.monotonic() - drawn > _BETWEEN:
                    self.partial, drawn = text, time.monotonic()

    def _show(self, chat: Chat) -> None:
        """Updates all traits of the conversation at once: the answer moves from `partial` to the turns."""
        captions = [turn.text for turn in chat.turns if turn.question is None]
        with self.hold_sync():
            self.picture = {**self.picture, "caption": captions[-1] if captions else ""}
            self.turns = [
                {"question": turn.question, "answer": turn.text, "note": _note(turn.answer.finish_reason)}
                for turn in chat.turns
                if turn.question is not None
            ]
            self.asking = self.partial = ""

    def _loading(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._told > _BETWEEN or done >= total:
            self._told = time.monotonic()
            with self.hold_sync():
                self.busy = f"{what}: {amounts(done, total)}"
                self.amount = done / max(total, 1)

    @contextlib.contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Shows the current activity; an error becomes one line, and the chat continues."""
        with self.hold_sync():
            self.error, self.busy, self.amount = "", what, -1.0
        try:
            yield
        except Blip2ChatError as error:
            self.error = str(error)
        except Exception as error:  # whatever it is, the worker has to survive for the next question
            self.error = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        finally:
            with self.hold_sync():
                self.busy, self.amount, self.asking, self.partial = "", -1.0, "", ""

    def _part(self, name: str, size: int, at: int, data: bytes) -> None:
        """Receives a part of a picture, because notebook servers close the connection on messages of more than
        10 MB."""
        if at == 0:
            self._upload = bytearray()
        self._upload += data
        if at == 0 and size > self.max_bytes:
            with self._doing("opening the picture"):
                PictureLimits(max_bytes=self.max_bytes).require_bytes(size, name)
        elif len(self._upload) == size:
            whole, self._upload = NamedBytes(self._upload, name), bytearray()
            self._open(lambda: whole)


def _received(widget: ChatWidget, content: dict[str, Any], buffers: Sequence[Any]) -> None:
    """A message from the browser, in some thread of the kernel."""
    kind = content.get("kind")
    if kind == "picture":
        name, size, at = file_name(str(content["name"])), int(content["size"]), int(content["at"])
        data = bytes(buffers[0]) if buffers else b""
        widget._stop.set()
        widget._jobs.put(lambda: widget._part(name, size, at, data))
    elif kind == "url":
        widget.look_at(str(content["url"]))
    elif kind == "ask":
        widget.ask(str(content["question"]))
    elif kind == "save":
        widget._jobs.put(widget._save)
    elif kind in ("stop", "undo", "start_over"):
        getattr(widget, kind)()


def _note(finish_reason: str) -> str:
    return {"length": "cut short", "interrupted": "stopped"}.get(finish_reason, "")
