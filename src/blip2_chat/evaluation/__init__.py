"""How good answers are: held-out questions, comparisons of models, and the field's scores."""
