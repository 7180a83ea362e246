"""This machine: its memory, its folders, and the small files of a model read with care."""
