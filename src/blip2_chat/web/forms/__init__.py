"""Answers with a form: which JSON schemas are supported, and how an answer is found for one."""
