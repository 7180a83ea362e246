"""The PyTorch engine, over transformers: for GPUs, and as the reference for everything else."""
