"""The paper's claims, one module each, tried at the scale of this machine.

Every module has a `run(Context) -> Finding`.
"""

from __future__ import annotations

#: Experiments in the order of the page, and what each asks.
EXPERIMENTS = {
    "ood": "what a denoiser makes of a clean picture",
    "paas": "variance and bias of perturb-and-average scoring",
    "sigma_schedule": "random or annealed noise levels",
    "sds": "score Jacobian chaining against score distillation",
    "regularisers": "what the emptiness and center-depth losses do",
    "janus": "direction words and the many faces of an object",
    "sample": "pictures from the same score model",
    "fit": "the renderer alone, on posed photographs",
}
