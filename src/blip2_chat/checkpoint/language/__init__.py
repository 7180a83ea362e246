"""Language models, one file each: sizes, how `config.json` gives them, tensors, and what sets the kind apart."""
