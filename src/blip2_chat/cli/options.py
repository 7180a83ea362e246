"""Options that several commands share: which model runs, and how it generates text."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, make_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, cast

import typer

from ..checkpoint.embedded import EMBEDDED, EMBEDDED_RETRIEVER, RETRIEVER_VARIABLE, embedded_models
from ..generation.settings import SETTINGS, Decoding, instruct_settings
from .display.terminal import ProgressBar, note
from .wording import OPTION_NAMES, PIXELS_OPTION

if TYPE_CHECKING:
    from ..generation.settings import Settings
    from ..images import PictureLimits
    from ..model import Model
    from ..retriever import Retriever
    from ..system.progress import Progress

PHOTOGRAPHS = "blip2-chat chat photo.jpg --model Salesforce/blip2-opt-2.7b"
_RETRIEVER = (
    "Retrieval model: "
    + (f"{EMBEDDED_RETRIEVER} (the embedded one), " if EMBEDDED_RETRIEVER in embedded_models() else "")
    + "a folder, or a name on the Hugging Face hub such as Salesforce/blip2-itm-vit-g"
)

_Loaded = TypeVar("_Loaded")
_PRESETS: dict[str, Callable[[], Settings]] = {"instruct": instruct_settings}

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
CHOICES_HELP = (
    "Answer each question with the most probable of these answers, separated by commas; no text is generated."
)
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
AdapterName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="LoRA adapter to merge with the model: a folder, or a name on the Hugging Face hub.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text, one object per line.")]


def choices_of(given: str | None) -> tuple[str, ...]:
    """The answers of `--choices`; `GenerationError` for an empty one, or one given twice."""
    if given is None:
        return ()
    from ..generation.scoring import checked_choices

    return tuple(checked_choices(given.split(",")))


@dataclass(frozen=True)
class _LoadOptions:
    """Which model runs, and on what."""

    heading: ClassVar[str] = MODEL

    model: ModelName = EMBEDDED
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

    def picture_limits(self) -> PictureLimits:
        """Which pictures are opened; a message about a larger one names the option."""
        from ..images import PictureLimits

        limits = PictureLimits(pixels_option=PIXELS_OPTION)
        if self.max_megapixels is not None:
            limits = replace(limits, max_pixels=self.max_megapixels * 1_000_000)
        return limits

    def _loaded(self, load: Callable[..., _Loaded], watch: Progress | None = None, **more: Any) -> _Loaded:
        """What `load` or `load_retriever` makes of the options; on a terminal a bar shows it, unless `watch` is
        told instead."""
        with nullcontext(watch) if watch else ProgressBar(f"loading {self.model}") as progress:
            return load(
                self.model,
                precision=self.precision,
                engine=self.engine,
                device=self.device,
                revision=self.revision,
                processor=self.processor,
                threads=self.threads,
                force=self.force,
                limits=self.picture_limits(),
                on_progress=progress,
                **more,
            )


@dataclass(frozen=True)
class ModelOptions(_LoadOptions):
    """Which chat model runs, and on what."""

    adapter: AdapterName = None

    @property
    def is_embedded(self) -> bool:
        return self.model == EMBEDDED and self.adapter is None

    def load(self, watch: Progress | None = None) -> Model:
        """The running model. `watch` receives the progress instead of a bar."""
        from ..loading import load

        return self._loaded(load, watch, adapter=self.adapter)

    def loading(self) -> dict[str, Any]:
        """`load`'s keywords, for other processes."""
        return {
            "name_or_path": self.model,
            "precision": self.precision,
            "engine": self.engine,
            "device": self.device,
            "revision": self.revision,
            "processor": self.processor,
            "adapter": self.adapter,
            "threads": self.threads,
            "force": self.force,
            "limits": self.picture_limits(),
        }

    def tell_limits(self, instead: str = PHOTOGRAPHS) -> None:
        """Of the embedded model: what it cannot do, and the command that can."""
        if self.is_embedded:
            note(
                "The embedded model knows drawn scenes and has never seen a photograph; "
                f"for photographs: {instead}"
            )


@dataclass(frozen=True)
class RetrieverOptions(_LoadOptions):
    """Which retrieval model runs, and on what."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            envvar=RETRIEVER_VARIABLE,
            help=f"{_RETRIEVER}.",
        ),
    ] = EMBEDDED_RETRIEVER

    def load(self) -> Retriever:
        """The running model."""
        from ..retriever_loading import load_retriever

        return self._loaded(load_retriever)

    def tell_limits(self) -> None:
        """Of the embedded model: what it cannot do, and the option that can."""
        if self.model == EMBEDDED_RETRIEVER:
            note(
                "The embedded retrieval model knows drawn scenes and has never seen a photograph; "
                "for photographs: --model Salesforce/blip2-itm-vit-g"
            )


@dataclass(frozen=True)
class IndexModelOptions(RetrieverOptions):
    """The model of an index; "" where none is named: the one that made it."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help=f"{_RETRIEVER} (default: the one that made the index).",
            show_default=False,
        ),
    ] = ""


Group = TypeVar("Group")


def _from_settings(*names: str) -> Callable[[type[Group]], type[Group]]:
    """Makes a class an option group, with an option for each of these fields of `Decoding`."""

    def made(group: type[Group]) -> type[Group]:
        fields = []
        for setting in map(SETTINGS.__getitem__, names):
            is_list = setting.type is str
            kind: Any = list[str] if is_list else setting.type
            default = "" if setting.default in (None, ()) else f" (default: {setting.default:g})"
            repeats = " May be repeated." if is_list else ""
            help = f"{setting.help.removesuffix('.')}{default}.{repeats}"
            option = typer.Option(metavar=setting.metavar, help=help)
            fields.append((_field(setting.name), Annotated[kind | None, option], field(default=None)))
        namespace = {"__doc__": group.__doc__, "__module__": group.__module__}
        return make_dataclass(group.__name__, fields, bases=(group,), frozen=True, namespace=namespace)

    return made


def _field(name: str) -> str:
    """The field for a setting: options may have shorter names."""
    return OPTION_NAMES.get(name, name).replace("-", "_")


@_from_settings(
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "length_penalty",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "stop",
)
@dataclass(frozen=True)
class DecodingOptions:
    """How the text is generated; what is not given is left to the preset, or to `Decoding`'s defaults."""

    heading: ClassVar[str] = "Text generation"

    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Settings to start from, which other options change: instruct, with which InstructBLIP's authors "
            "let it answer (5 beams, up to 256 tokens, a penalty on repetition).",
        ),
    ] = None

    def settings(self) -> Settings:
        """`Decoding`'s keywords, checked before a model is loaded. Raises `GenerationError`."""
        given = {name: getattr(self, _field(name), None) for name in SETTINGS}
        chosen = {name: value for name, value in given.items() if value not in (None, [])}
        settings = cast("Settings", {**_preset(self.preset), **chosen})
        Decoding.of(**settings)
        return settings


def _preset(name: str | None) -> Settings:
    if name is None:
        return {}
    if name not in _PRESETS:
        raise typer.BadParameter(f"there is no preset {name!r}; known: {', '.join(_PRESETS)}")
    return _PRESETS[name]()


@_from_settings("num_answers")
class WritingOptions(DecodingOptions):
    """`DecodingOptions`, and how many answers: a run has captions per picture instead."""
