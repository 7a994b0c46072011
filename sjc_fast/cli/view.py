"""`sjc-fast view`: orbit a run's object in the browser."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import UserError
from ..runs.console import say
from ..runs.folder import RunFolder
from ..runs.run import load_model
from ..runs.settings import pick_device
from . import parse


@dataclass
class ViewOptions:
    """The object of a run in the browser; of a running one, as it grows from checkpoint to checkpoint."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    port: int = 8080
    host: str = "127.0.0.1"
    """Where to listen; 0.0.0.0 lets other machines in."""
    device: str = "auto"
    backend: str = "auto"


def main(arguments: list[str]) -> None:
    """Serve until Ctrl-C."""
    options = parse(ViewOptions, arguments, "view")
    from ..viewer import check_port, view_run

    check_port(options.host, options.port)
    folder = RunFolder(options.run)
    config, field = folder.load()
    device = pick_device(options.device)
    model, where = load_model(config, device, additions=False), {"host": options.host, "port": options.port}
    viewer = view_run(config, field.to(device), model, backend=options.backend, **where)
    say(f"{viewer.address} (stop with Ctrl-C)")
    try:
        seen = folder.age()
        while True:
            time.sleep(0.5)
            if (now := folder.age()) != seen:
                seen = now
                viewer.show(folder.load()[1].to(device))
    except UserError as error:
        raise UserError(f"the run has gone: {error}") from None
    finally:
        viewer.close()
