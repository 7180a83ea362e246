"""Pictures: from a path, URL, bytes, image or array to the input of BLIP-2's vision encoder.

    open_picture(source)   -> Picture   upright RGB, white behind transparency, within limits
    to_pixels(picture, p)  -> float32 [1, 3, H, W], equal to transformers' processor
    prepare(picture, p)    -> PreparedPicture   pixels, digest, size and advice, without the picture itself
    looks_like_picture(name, head) -> whether a file is one to open: by its ending, else by its first bytes
    is_one_picture(value)  -> whether open_picture takes it as one picture
    advise(picture)        -> what would make answers better: too dark, washed out, blurred, tiny

Everything here needs only numpy and Pillow; httpx is imported to open a URL, and pillow-heif to open a HEIC
picture. Every problem with a picture raises `blip2_chat.errors.PictureError`.
"""

from .advice import Advice, AdviceKind, advise
from .kinds import HEAD_BYTES, begins_like_picture, is_picture_file, looks_like_picture
from .limits import PictureLimits
from .picture import Picture, PictureSource, is_one_picture, open_picture
from .pixels import Preprocess, to_pixels, to_pixels_batch
from .prepared import PreparedPicture, prepare

__all__ = [
    "HEAD_BYTES",
    "Advice",
    "AdviceKind",
    "Picture",
    "PictureLimits",
    "PictureSource",
    "PreparedPicture",
    "Preprocess",
    "advise",
    "begins_like_picture",
    "is_one_picture",
    "is_picture_file",
    "looks_like_picture",
    "open_picture",
    "prepare",
    "to_pixels",
    "to_pixels_batch",
]
