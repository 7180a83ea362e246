"""The options that several commands share, each in one place: which model, and how it writes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..checkpoint.embedded import EMBEDDED
from .display.terminal import ProgressBar, note
from .wording import OPTION_NAMES, PIXELS_OPTION

if TYPE_CHECKING:
    from ..images import PictureLimits
    from ..loading import EngineChoice, PrecisionChoice
    from ..model import Model

PHOTOGRAPHS = "blip2-chat chat photo.jpg --model Salesforce/blip2-opt-2.7b"

Start = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help='First words of each caption, which the model continues: "a photo of".'
    ),
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        envvar="BLIP2_CHAT_MODEL",
        help="The embedded model (demo), a folder, or a hub name such as Salesforce/blip2-opt-2.7b.",
    ),
]
# Fields that are called otherwise than `Decoding`'s keywords.
_KEYWORDS = {name.replace("-", "_"): keyword for keyword, name in OPTION_NAMES.items()}

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


@dataclass(frozen=True)
class ModelOptions:
    """Which model runs, and on what."""

    model: ModelName = EMBEDDED
    precision: Annotated[
        str,
        typer.Option(metavar="NAME", help="fp32, int8 or int4; torch also fp16, bf16; auto: what fits."),
    ] = "auto"
    engine: Annotated[str, typer.Option(metavar="NAME", help="onnx (any CPU) or torch (GPUs).")] = "auto"
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or mps.")] = "auto"
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a hub name.")
    ] = None
    processor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Take tokenizer and picture settings from this model or folder instead."
        ),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Load the model even if the memory check says it will not fit.")
    ] = False
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="CPU threads of the onnx engine.")
    ] = None

    max_megapixels: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=10_000, help="Largest picture (100; serve: 40)."),
    ] = None

    @property
    def is_embedded(self) -> bool:
        return self.model == EMBEDDED

    def picture_limits(self) -> PictureLimits:
        """Which pictures are opened; a message about a larger one names the option."""
        from ..images import PictureLimits

        limits = PictureLimits(pixels_option=PIXELS_OPTION)
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
        """`Decoding`'s keywords, checked before a model is loaded. Raises `GenerationError`."""
        from ..generation.settings import Decoding

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        settings = {
            _KEYWORDS.get(name, name): value for name, value in given.items() if value not in (None, [])
        }
        Decoding.of(**settings)
        return settings


@dataclass(frozen=True)
class WritingOptions(DecodingOptions):
    """`DecodingOptions`, and how many answers: a run has captions per picture instead."""

    answers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of answers to return, best first; needs beams or sampling."),
    ] = None
