"""Options that several commands share: which model runs, and how it generates text."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import typer

from ..errors import Blip2ChatError
from .display.terminal import ProgressBar, note

if TYPE_CHECKING:
    from ..images import PictureLimits
    from ..loading import EngineChoice, PrecisionChoice
    from ..model import Model

# The same as in checkpoint/catalogue.py, which takes too long to import for --help.
_EMBEDDED = "demo"
PHOTOGRAPHS = "blip2-chat chat photo.jpg --model Salesforce/blip2-opt-2.7b"

# Headings in --help.
MODEL = "Model"
_GENERATION = "Text generation"

Start = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help='First words of each caption, which the model continues, such as "a photo of".',
        rich_help_panel=_GENERATION,
    ),
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        envvar="BLIP2_CHAT_MODEL",
        help="Model: demo (the embedded one), a folder, or a name on the Hugging Face hub such as "
        "Salesforce/blip2-opt-2.7b.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text, one object per line.")]


@dataclass(frozen=True)
class ModelOptions:
    """Which model runs, and on what."""

    heading: ClassVar[str] = MODEL

    model: ModelName = _EMBEDDED
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Precision of the weights: fp32, int8 or int4, with torch also fp16 or bf16; auto chooses one "
            "that fits into memory.",
        ),
    ] = "auto"
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="Runtime: onnx (any CPU), torch (GPUs) or auto.")
    ] = "auto"
    device: Annotated[
        str, typer.Option(metavar="NAME", help="Device to run on: cpu, cuda, cuda:N, mps or auto.")
    ] = "auto"
    revision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Branch, tag or commit of a model on the Hugging Face hub."),
    ] = None
    processor: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Use the tokenizer and picture settings of this model or folder."),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Load the model even if the memory check says it will not fit.")
    ] = False
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of CPU threads for the onnx engine (default: one per physical core).",
        ),
    ] = None

    max_megapixels: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=10_000,
            help="Largest accepted picture, in megapixels (default: 100; serve: 40).",
        ),
    ] = None

    @property
    def is_embedded(self) -> bool:
        return self.model == _EMBEDDED

    def picture_limits(self) -> PictureLimits:
        """Which pictures are opened; a message about a larger one names the option."""
        from ..images import PictureLimits

        limits = PictureLimits(pixels_option="--max-megapixels {megapixels}")
        if self.max_megapixels is not None:
            limits = replace(limits, max_pixels=self.max_megapixels * 1_000_000)
        return limits

    def load(self) -> Model:
        """The running model; on a terminal a bar shows its loading."""
        from ..loading import load

        with ProgressBar(f"loading {self.model}") as progress:
            return load(
                self.model,
                precision=cast("PrecisionChoice", self.precision),  # `load` checks the words
                engine=cast("EngineChoice", self.engine),
                device=self.device,
                revision=self.revision,
                processor=self.processor,
                threads=self.threads,
                force=self.force,
                limits=self.picture_limits(),
                on_progress=progress,
            )

    def tell_limits(self, instead: str = PHOTOGRAPHS) -> None:
        """Of the embedded model: what it cannot do, and the command that can."""
        if self.is_embedded:
            note(
                "The embedded model knows drawn scenes and has never seen a photograph; "
                f"for photographs: {instead}"
            )


@dataclass(frozen=True)
class DecodingOptions:
    """How the text is generated; what is not given is left to `Decoding`'s defaults."""

    heading: ClassVar[str] = _GENERATION

    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Maximum length in tokens (50).")
    ] = None
    min_new_tokens: Annotated[int | None, typer.Option(metavar="N", help="Minimum length in tokens (0).")] = (
        None
    )
    beams: Annotated[int | None, typer.Option(metavar="N", help="Number of beams for beam search.")] = None
    length_penalty: Annotated[
        float | None,
        typer.Option(metavar="X", help="Beam search: above 1 favours longer text, below 1 shorter."),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(metavar="X", help="Sampling temperature; 0 (default) always takes the likeliest token."),
    ] = None
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Top-k sampling: sample from the K likeliest tokens.")
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Nucleus sampling: sample from the smallest set of tokens whose probabilities add up to P.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Random seed for sampling; the same seed gives the same text."),
    ] = None
    repetition_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Above 1 makes repeated tokens less likely.")
    ] = None
    no_repeat_ngram: Annotated[
        int | None, typer.Option(metavar="N", help="Never repeat a sequence of N tokens.")
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Stop before this text, which is left out; may repeat."),
    ] = None

    def settings(self) -> dict[str, Any]:
        """`Decoding`'s keywords, checked: a contradiction is said before a model is loaded.

        Raises `GenerationError`, with the names that the user typed.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        settings = {
            _KEYWORDS.get(name, name): value for name, value in given.items() if value not in (None, [])
        }
        return _checked(settings)


@dataclass(frozen=True)
class WritingOptions(DecodingOptions):
    """`DecodingOptions`, and how many answers: a run has captions per picture instead."""

    answers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of answers to return, best first; needs beams or sampling."),
    ] = None


# Where the option is shorter than `Decoding`'s keyword.
_KEYWORDS = {"beams": "num_beams", "answers": "num_answers", "no_repeat_ngram": "no_repeat_ngram_size"}


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """`Decoding`'s keywords as they are, or `GenerationError` with the names that the user typed."""
    from ..generation.settings import Decoding

    try:
        Decoding.of(**settings)
    except Blip2ChatError as error:
        raise type(error)(_as_typed(str(error))) from None
    return settings


def _as_typed(message: str) -> str:
    """`Decoding`'s message, with options in the place of its keywords."""
    for field in fields(WritingOptions):
        option = "--" + field.name.replace("_", "-")
        keyword = _KEYWORDS.get(field.name, field.name)
        if "_" in keyword:  # the others are words of the sentence as well
            message = message.replace(keyword, option)
    return message
