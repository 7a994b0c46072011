"""Tensors in, tensors out: the innermost loops, with no knowledge of fields, prompts or configurations."""
