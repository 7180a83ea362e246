"""A small OPT-style tokenizer: byte-level BPE over the texts of the task, with OPT's special tokens.

All 256 bytes are in its alphabet, so any text can be written; texts unlike the task's just take more
tokens. Like OPT's, it starts every text with ``</s>``; the newline ends an answer.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .backgrounds import COLOURS
from .catalog import GROUPS, KINDS
from .wordings import WORDINGS

VOCAB_SIZE = 1000  # rows of the embedding, as many as the tokenizer may need
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<image>")
PAD_ID, BOS_ID, IMAGE_ID = 1, 2, 4


def _texts() -> list[str]:
    """Everything asked and answered, once in each case that people type."""
    names = [text for kind in KINDS for text in (kind.name, kind.plural, kind.phrase)]
    words = [
        form.format(one="a", many="", name="", first="", second="", colour="")
        for forms in WORDINGS.values()
        for form in forms
    ]
    answers = ["a dog and two cats, an apple, a boat, yes, no, none, one, two, three, four, nothing on a an"]
    answers += [f"on a {colour.name} background" for colour in COLOURS]
    answers += [f"{group} {group}s a an {group} there is no" for group in GROUPS]
    answers += ["gray color picture image photo of this there is"]
    turns = [f"Question: {text} Answer: {name}. Question:" for text in words for name in names[:12]]
    return names * 20 + words * 20 + [word.capitalize() for word in words] * 20 + answers * 100 + turns


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train it (a second's work, the same every time)."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _texts(),
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", BOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>",
        model_max_length=512, padding_side="left",
    )  # fmt: skip


def newline_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that ends an answer."""
    (token,) = tokenizer.encode("\n", add_special_tokens=False)
    return int(token)
