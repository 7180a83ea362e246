"""Captions in the pictures' own metadata (XMP).

caption.py                         what is written: description, alternative text, keywords, and who wrote it
packet.py                          an XMP packet, edited with lxml
containers/                        where JPEG, PNG, WebP and TIFF files keep their packet
existing.py                        text that a picture has already, in whichever of its places
files.py                           into a picture or its sidecar file, safely
keywords.py                        keywords from the words of captions
"""
