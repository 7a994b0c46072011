"""Names of kernels, as the compiler mangled them, in kinds that people speak of."""

from __future__ import annotations

from collections import Counter

#: Kinds and what their names contain; the first that fits counts.
KINDS = {
    "convolution": ("convolution",),
    "matrix product": ("cublas",),
    "memset or memcpy": ("memset", "memcpy"),
    "group norm": ("group_norm_kernel",),  # the name of PyTorch's file
    "layer norm": ("layer_norm_kernel",),
    "concatenation": ("CatArray",),
    "silu": ("silu_kernel",),
    "gelu": ("Gelu",),
    "reduction": ("reduce_kernel",),
    "copy": ("direct_copy_kernel", "float16_copy_kernel"),
    "elementwise addition": ("CUDAFunctor_add", "CUDAFunctorOnSelf_add"),
    "elementwise multiplication": ("MulFunctor",),
    "indexing": ("indexSelect", "index_elementwise_kernel"),
    "elementwise, other": ("elementwise_kernel",),
}


def kind(name: str) -> str:
    """The kind of a node. Attentions and kernels of Triton are kinds of their own; what is not known is "other"."""
    if name.startswith(("attention", "triton:")):
        return name
    return next((k for k, parts in KINDS.items() if any(part in name for part in parts)), "other")


def by_kind(names: Counter[str]) -> dict[str, int]:
    """How many nodes of every kind, the most frequent first."""
    found: Counter[str] = Counter()
    for name, number in names.items():
        found[kind(name)] += number
    return dict(found.most_common())
