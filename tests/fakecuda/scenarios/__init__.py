"""What is tried without a device; each scenario is a process, since the environment decides what devices there are."""

#: Files of this folder, whose `run` checks and returns figures, and their environment.
SCENARIOS: dict[str, dict[str, str]] = {
    "refusals": {},
    "step": {},
    "together": {},
    "devices": {"FAKE_DEVICES": "2"},
    "failures": {},
    "memory": {"FAKE_GIB": "2.6"},
    "preview": {},
    "resume": {},
    "quick": {},
    "regular": {},
    "compiled": {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"},
}
