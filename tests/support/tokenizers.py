"""Small tokenizers of the kinds that official checkpoints have."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

_CORPUS = [
    "Question: how many cats are there? Answer: two\n",
    "Question: what colour is the car on the left? Short answer: red\n",
    "a photo of a dog running on the beach\n",
    "this is a picture of a city street at night\n",
    "Question: which city is this? Answer: singapore. Question: why? Answer:\n",
]


def retriever_vocabulary() -> list[str]:
    """A small vocabulary of WordPiece: whole words, pieces of words, letters, and BERT's own tokens."""
    words = ["dog", "cat", "beach", "woman", "on", "the", "a", "and", "two", "pink", "blanket", "sitting"]
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,!?'-()[]#ß")
    pieces = [f"##{piece}" for piece in (*letters, "s", "ing", "es", "ket")]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *words, *letters, "犬", *pieces]))


def special_tokens(kind: str) -> dict[str, str]:
    """What tokenizer_config.json says of the tokenizer."""
    if kind == "qformer":
        names = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
        return {name: f"[{name[: -len('_token')].upper()}]" for name in names}
    if kind == "llama":
        return {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "[PAD]"}
    if kind == "t5":
        return {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    return {**names, "padding_side": "left"}


def opt_tokenizer() -> Tokenizer:
    """Byte-level BPE: `<s>` 0, `<pad>` 1, `</s>` 2 put before the text, `<unk>` 3, last `<image>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 2)]
    )
    return tokenizer


def t5_tokenizer() -> Tokenizer:
    """Unigram over `▁` words as SentencePiece has it: `<pad>` 0, `</s>` 1 put after the text, `<unk>` 2.

    Its pieces are written down, not trained: the trainer gives others from run to run.
    """
    words = sorted({word for line in _CORPUS for word in line.replace("\n", " ").split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -4.0) for word in words] + [(letter, -6.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def llama_tokenizer() -> Tokenizer:
    """BPE over `▁` words with a piece per byte, as LLaMA's: `<unk>` 0, `<s>` 1, `</s>` 2 put before the text (as
    Vicuna's is), last `[PAD]` and `<image>`."""
    special = ["<unk>", "<s>", "</s>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    words = sorted({word for line in _CORPUS for word in line.replace("\n", " ").split()})
    pieces += sorted({letter for word in words for letter in word})
    merges: list[tuple[str, str]] = []
    for word in words:
        built = "▁"
        for letter in word:
            if built + letter not in pieces:
                merges.append((built, letter))
                pieces.append(built + letter)
            built += letter
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.add_special_tokens(
        [
            AddedToken("[PAD]", normalized=False, special=True),
            AddedToken("<image>", normalized=False, special=True),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 2)]
    )
    return tokenizer


def qformer_tokenizer() -> Tokenizer:
    """WordPiece as bert-base-uncased has it, with `[DEC]` last: `[PAD]` 0, `[UNK]`, `[CLS]` and `[SEP]` around the
    text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({letter for line in _CORPUS for letter in line.lower() if not letter.isspace()})
    words = sorted({word.strip("?:.") for line in _CORPUS for word in line.lower().split()} - {""})
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *(w for w in words if len(w) > 1)]
    tokenizer = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([*special, "[DEC]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "opt": opt_tokenizer,
    "t5": t5_tokenizer,
    "llama": llama_tokenizer,
}
