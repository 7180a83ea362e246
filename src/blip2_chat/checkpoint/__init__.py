"""Official checkpoints on disk: finding and downloading them, reading their configuration, checking their tensors,
and estimating the memory that a model needs. Nothing here loads weights."""
