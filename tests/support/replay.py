"""A CPU twin of CUDA graph capture: the tensor operations of a function, recorded once and done again blindly.

Like a graph, a recording keeps the addresses of tensors and every number that the host put in; what the host decides
later is lost on it. So a step that replays like this, and ends where the eager one does, asks nothing of the host.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: What waits for the device or copies from the host's memory, and so cannot be captured.
HOST = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero", "aten::equal"}
HOST |= {"aten::lift_fresh", "aten::lift_fresh_copy", "aten::unique", "aten::unique2", "aten::masked_select"}


def tensors(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def storage(x):
    return x.untyped_storage()._cdata


class Recording(TorchDispatchMode):
    """Records what is dispatched while it is on, and remembers what those operations overwrite."""

    def __init__(self):
        super().__init__()
        self.calls, self.fresh, self.before = [], set(), {}

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function._schema.name in HOST:
            raise RuntimeError(f"{function._schema.name} asks the host")
        for argument, value in zip(function._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.remember(value)
        for name, value in kwargs.items():
            argument = next(a for a in function._schema.arguments if a.name == name)
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.remember(value)
        out = function(*args, **kwargs)
        known = {storage(x) for x in tensors((args, kwargs))}
        self.fresh |= {storage(x) for x in tensors(out)} - known
        self.calls.append((function, args, kwargs, out))
        return out

    def remember(self, value):
        for x in tensors(value):
            if storage(x) not in self.fresh:
                self.before.setdefault(storage(x), (x, x.detach().clone()))

    def undo(self):
        with torch.no_grad():
            for x, value in self.before.values():
                x.copy_(value)

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, out in self.calls:
                for old, new in zip(tensors(out), tensors(function(*args, **kwargs)), strict=True):
                    if storage(old) != storage(new):
                        old.copy_(new)


def capture(function, _device):
    """As `sjc_fast.training.graphs.capture`: nothing has happened afterwards, and the result replays the function."""
    recording = Recording()
    with recording:
        function()
    recording.undo()
    return recording.replay
