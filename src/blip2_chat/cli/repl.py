"""The conversation of `blip2-chat chat`: lines in, answers and commands' effects out."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Blip2ChatError, ConversationError, PictureError
from .display.output import tell_advice, tell_dropped
from .display.screen import Screen
from .display.terminal import say
from .wording import worded

if TYPE_CHECKING:
    from ..chat import Chat
    from ..conversation_file import Turn
    from ..generation.settings import Settings
    from ..model import Model

_PROMPT = "> "
# At a terminal, where people type them by habit; in a pipe they are questions like all other lines.
_WORDS = {"exit": "quit", "quit": "quit", ":q": "quit", ":quit": "quit", "?": "help", "help": "help"}
# Other names of commands.
_ALIASES = {"exit": "quit", "q": "quit", "?": "help", "h": "help"}


class _Leave(Exception):
    """The user wants to go."""


class Talk:
    """A conversation at a terminal or from a pipe. stdout gets answers and nothing else.

    From a pipe every question has one line of stdout, an empty one when it could not be answered.
    """

    def __init__(
        self,
        model: Model,
        picture: str,
        settings: Settings,
        interactive: bool,
        questions: Sequence[str] = (),
        screen: Screen | None = None,
    ) -> None:
        """`questions`: suggested to users at the start."""
        self._model = model
        self._questions = tuple(questions) or ("what is in the picture?",)
        self.screen = screen or Screen(interactive)
        self._settings = settings
        self._interactive = interactive
        # Files this conversation may overwrite: those it wrote or came from.
        self._own_files: set[Path] = set()
        # From a pipe: why the picture that the questions are about is not there.
        self._no_picture: str | None = None
        self.failed = False
        self.chat: Chat = self._about(picture)

    def run(self) -> None:
        """Answers lines until they end, or the user leaves."""
        with contextlib.suppress(_Leave):
            for line in self._lines():
                try:
                    self._take(line)
                except KeyboardInterrupt:
                    if not self._interactive:
                        raise
                    self.screen.note("(interrupted)")
                except Blip2ChatError as error:
                    self.failed = True
                    self.screen.complain(worded(error))

    def _lines(self) -> Iterator[str]:
        for line in self._typed() if self._interactive else sys.stdin:
            text = line.lstrip("\ufeff").strip()  # Windows' pipes may begin with a byte order mark
            if text:
                yield text

    def _typed(self) -> Iterator[str]:
        from .display.line_input import Commands, typed_lines

        commands = {name: name in _PATHS for name in _COMMANDS}
        return typed_lines(_PROMPT, Commands(commands, self._questions[0]), self.screen.has_colour)

    def welcome(self) -> None:
        """Shows the picture, and what can be done about it."""
        engine = self._model.engine
        about = f"{engine.name}, {engine.precision}, {engine.device}"
        self.screen.picture(self.chat.picture)
        self.screen.note(f"{self.chat.picture.name}, with {self._model.name} ({about})")
        first, *others = self._questions
        self.screen.note(f"Try: {first} (Tab types it)")
        for question in others:
            self.screen.note(f"     {question}")
        self.screen.note("/help lists the commands, ctrl-D leaves")

    def _take(self, line: str) -> None:
        if self._interactive and line.lower() in _WORDS:
            line = "/" + _WORDS[line.lower()]
        if not line.startswith("/"):
            self._answer(lambda: self.chat.stream(line))
            return
        name, _, argument = line[1:].partition(" ")
        name = _ALIASES.get(name.lower(), name.lower())
        command = _COMMANDS.get(name)
        if command is None:
            raise ConversationError(_unknown(line, name))
        command(self, argument.strip())

    def _answer(self, pieces: Callable[[], Iterator[str]]) -> None:
        try:
            if self._no_picture:
                raise PictureError(f"skipped, because its picture could not be opened ({self._no_picture})")
            self.screen.answer(pieces())
        except Blip2ChatError:
            if not self._interactive:
                say("")  # line n of the answers belongs to question n
            raise
        answer = self.chat.turns[-1].answer
        self.screen.others(answer)
        tell_dropped(self.chat, self.screen.note)
        if answer.finish_reason == "length" and self._interactive:
            self.screen.note(f"(cut off at {len(answer.tokens)} tokens; --max-new-tokens sets how many)")

    def _about(self, picture: str) -> Chat:
        chat = self._model.chat(picture, **self._settings)
        tell_advice(chat, self.screen.note)
        return chat

    @contextlib.contextmanager
    def _changing_picture(self) -> Iterator[None]:
        """A person sees that the change failed; a script's next questions must not go to the old picture."""
        try:
            yield
            self._no_picture = None
        except Blip2ChatError as error:
            if not self._interactive:
                self._no_picture = worded(error)
            raise

    def caption(self, start: str) -> None:
        """describe the picture, or go on from the words START"""
        self._answer(lambda: self.chat.stream_caption(start or None))

    def again(self, _: str) -> None:
        """ask the last question again"""
        turn = self.chat.undo()
        turns = len(self.chat.turns)
        try:
            self._answer(lambda: self._repeated(turn))
        finally:
            if len(self.chat.turns) == turns:  # nothing came: the old answer stays
                self.chat.turns.append(turn)

    def _repeated(self, turn: Turn) -> Iterator[str]:
        return (
            self.chat.stream_caption(turn.start) if turn.question is None else self.chat.stream(turn.question)
        )

    def image(self, picture: str) -> None:
        """talk about another picture, from the beginning"""
        if not picture:
            raise ConversationError("/image needs a path or URL")
        with self._changing_picture():
            self.chat = self._about(_unquoted(picture))
        self.screen.picture(self.chat.picture)
        self.screen.note(f"now about {self.chat.picture.name}")

    def undo(self, _: str) -> None:
        """take back the last question and its answer"""
        self.screen.note(f"took back: {_called(self.chat.undo())}")

    def reset(self, _: str) -> None:
        """forget all questions; the picture stays"""
        self.chat.reset()
        self.screen.note("forgot all questions")

    def history(self, _: str) -> None:
        """show the conversation so far"""
        for turn in self.chat.turns:
            self.screen.note(_PROMPT + _called(turn))
            self.screen.note(turn.text)

    def save(self, file: str) -> None:
        """write the conversation to FILE, as JSON"""
        if not file:
            raise ConversationError("/save needs a file name")
        path = Path(_unquoted(file)).expanduser()
        if path.exists() and path.resolve() not in self._own_files:
            raise ConversationError(f"{path} is there already; give another name", path=path)
        self.chat.save(path)
        self._own_files.add(path.resolve())
        self.screen.note(f"saved {_turns(self.chat)} to {path}")

    def load(self, file: str) -> None:
        """take up the conversation in FILE"""
        if not file:
            raise ConversationError("/load needs a file name")
        path = Path(_unquoted(file)).expanduser()
        with self._changing_picture():
            try:
                loaded = self._model.load_chat(path)
            except PictureError:
                # Moved since; it may be the one that is open.
                loaded = self._model.load_chat(path, picture=self.chat.picture)
        loaded.settings = self._settings
        self.chat = loaded
        self._own_files.add(path.resolve())
        self.screen.picture(loaded.picture)
        self.screen.note(f"about {loaded.picture.name}, {_turns(loaded)}")

    def help(self, _: str) -> None:
        """list the commands"""
        for name, command in _COMMANDS.items():
            self.screen.note(f"  {'/' + name + _ARGUMENTS.get(name, ''):<18} {command.__doc__}")
        self.screen.note("Everything else is a question. ctrl-C breaks off an answer, ctrl-D leaves.")

    def leave(self, _: str) -> None:
        """leave"""
        raise _Leave


_COMMANDS: dict[str, Callable[[Talk, str], None]] = {
    "caption": Talk.caption,
    "image": Talk.image,
    "again": Talk.again,
    "undo": Talk.undo,
    "reset": Talk.reset,
    "history": Talk.history,
    "save": Talk.save,
    "load": Talk.load,
    "help": Talk.help,
    "quit": Talk.leave,
}
# Those that a path follows, for Tab.
_PATHS = {"image", "save", "load"}
_ARGUMENTS = {"caption": " [START]", "image": " PATH|URL", "save": " FILE", "load": " FILE"}


def _unknown(line: str, name: str) -> str:
    """Why a line that begins with a slash is no command, and what may have been meant."""
    if Path(_unquoted(line)).is_file():
        return f"to talk about another picture, type /image {line}"
    close = [one for one in _COMMANDS if name and one.startswith(name)]
    close = close or get_close_matches(name, [*_COMMANDS, *(one for one in _ALIASES if len(one) > 1)], 1)
    meant = f"; did you mean {' or '.join('/' + one for one in close)}?" if close else ";"
    return f"there is no command /{name}{meant} /help lists them"


def _called(turn: Turn) -> str:
    return turn.question if turn.question is not None else f"/caption {turn.start}".strip()


def _turns(chat: Chat) -> str:
    return "1 turn" if len(chat.turns) == 1 else f"{len(chat.turns)} turns"


def _unquoted(path: str) -> str:
    """A path as terminals paste one that is dropped on them: in quotes, or with its spaces escaped."""
    if len(path) > 1 and path[0] == path[-1] and path[0] in "'\"":
        return path[1:-1]
    return path if os.name == "nt" else path.replace("\\ ", " ")
