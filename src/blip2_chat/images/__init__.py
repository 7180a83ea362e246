"""Pictures: from anything a person may hand over to the array BLIP-2's vision tower reads.

    open_picture(source)   -> Picture   upright RGB, white behind transparency, within limits
    to_pixels(picture, p)  -> float32 [1, 3, H, W], equal to transformers' processor
    advise(picture)        -> what would make answers better: too dark, washed out, blurred, tiny

Everything here needs only numpy and Pillow; httpx is imported when a URL is opened and pillow-heif
when a HEIC picture is. Whatever is wrong with a picture raises `blip2_chat.errors.PictureError`.
"""

from .advice import Advice, AdviceKind, advise
from .limits import PictureLimits
from .picture import Picture, PictureSource, open_picture
from .pixels import Preprocess, to_pixels, to_pixels_batch

__all__ = [
    "Advice",
    "AdviceKind",
    "Picture",
    "PictureLimits",
    "PictureSource",
    "Preprocess",
    "advise",
    "open_picture",
    "to_pixels",
    "to_pixels_batch",
]
