"""`sjc-fast farm`: how the farm of a cluster stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from . import parse


@dataclass
class FarmOptions:
    """What `sjc-fast batch --farm` is doing on a Ray cluster."""

    what: Annotated[Literal["status"], tyro.conf.Positional]
    address: Annotated[str, tyro.conf.Positional] = "auto"
    """HOST:PORT of the cluster's head; "auto" is the one that runs on this machine."""


def main(arguments: list[str]) -> None:
    """Print it."""
    options = parse(FarmOptions, arguments, "farm")
    from ..farm.driver import status

    state = status(options.address)
    total = max(1, state["total_steps"])
    print(f"output   {state['output']}")
    print(f"workers  {state['workers']}")
    print(f"objects  {', '.join(f'{count} {name}' for name, count in state['objects'].items())}")
    done = f"{state['steps']} of {state['total_steps']} ({state['steps'] / total:.0%})"
    print(f"steps    {done} in {state['seconds']:.0f} s")
    for name in state["running"]:
        print(f"         {name}")
