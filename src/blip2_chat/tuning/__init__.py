"""A model of one's own: LoRA adapters from examples (`blip2-chat tune`).

examples.py   what is taught: rows of files and folders, checked; what is held out
recipe.py     how it is trained, and what came of each epoch
memory.py     the memory that a training needs
learner.py    transformers' model with PEFT's adapter: losses of examples (torch)
training.py   the epochs, early stopping, and going on after a kill (torch)
record.py     the files beside the adapter: history, loss plot, model card
tune.py       `tune`: from a model's name and files to an adapter
"""
