"""The configuration of a run: one tree of dataclasses for the command line, the YAML beside each run, and Python."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import tyro
import yaml

from ..errors import UserError, setting
from ..scene.directions import PAPER_DIRECTIONS, Direction
from ..storage.files import atomic

Tree = dict[str, Any]
TINY, HUGE = 1e-9, 1e9


class Range(NamedTuple):
    """The smallest and largest value that a number may have; it stands beside its field."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        return f"between {_plain(self.low)} and {_plain(self.high)}" if math.isfinite(self.low) else "a finite number"


RIG = 4  # views of a rig
FINITE, POSITIVE, STEPS = Range(), Range(TINY, HUGE), Range(1, 10**7)


def alias(name: str) -> Any:
    """A second, short name of an option on the command line."""
    return tyro.conf.arg(aliases=[f"--{name}"])


@dataclass
class CameraConfig:
    """Where training views are taken from. The defaults are the paper's."""

    sampling: Annotated[Literal["sphere", "directions", "rig"], alias("cameras.law")] = "sphere"
    """"sphere": the paper's distribution; "directions": the named directions in shuffled rounds; "rig": four views a
    quarter turn apart, at one elevation, with one lens and one noise level."""
    radius: Annotated[float, POSITIVE] = 1.5
    """Distance from the object, in units of half the voxel box."""
    fov: Annotated[tuple[float, float], Range(1, 170)] = (40.0, 70.0)
    """Range of the field of view, degrees."""
    v: Annotated[tuple[float, float], Range(0, 180)] = (0.0, 100.0)
    """Range of v with "sphere", degrees: cos(polar angle) = 1 - 2 v / pi; 90 is the horizon."""
    elevation: Annotated[tuple[float, float], Range(-89, 89)] = (0.0, 30.0)
    """Range of the elevation with "rig", degrees."""
    spread: Annotated[float, Range(0, 1)] = 1.0
    """With "directions": 0 is the middle of each direction's patch, 1 anywhere in it."""
    words: Annotated[Literal["nearest", "blended", "none"], alias("direction-words")] = "nearest"
    """Direction words of a view: its own direction's; a mixture of the encoded neighbors' by angle; or none at all."""
    directions: Annotated[tuple[Direction, ...], tyro.conf.Fixed, tyro.conf.Suppress] = PAPER_DIRECTIONS

    @property
    def lens(self) -> tuple[float, float]:
        """Of cameras that pictures are taken with: radius, and the middle of the range of FoV, degrees."""
        return self.radius, sum(self.fov) / 2


@dataclass
class FieldConfig:
    """The voxel field at the start. The defaults are the paper's."""

    resolution: Annotated[int, Range(4, 1024)] = 100
    density_shift: Annotated[float, FINITE] = -1.0
    density_init: Annotated[float, FINITE] = 0.0
    """Raw density everywhere."""
    feature_std: Annotated[float, Range(0, HUGE)] = 1.0
    """Standard deviation of the random raw features."""
    background: Literal["texture", "plain", "random"] = "texture"
    """"texture": learned, by ray direction (paper); "plain": one color; "random": another near-gray every view."""
    background_color: Annotated[tuple[float, float, float], Range(0, 1), alias("field.background-colour")] = (
        0.93,
        0.93,
        0.93,
    )
    """RGB in [0, 1]: of "plain" in training, and of pictures and videos with "plain" and "random"."""

    @property
    def backdrop(self) -> tuple[float, float, float] | None:
        """The plain color behind pictures, RGB in [0, 1]; None where the field has a texture of its own."""
        return None if self.background == "texture" else self.background_color


@dataclass
class SigmaConfig:
    """Which noise levels are scored, and when. The defaults are the paper's."""

    mode: Annotated[Literal["random", "log-uniform", "annealed"], alias("sigma-mode")] = "random"
    """"random": ticks of the model's table; "log-uniform": between low and high; "annealed": from high to low."""
    drop_largest: Annotated[int, Range(0, 10**6)] = 30
    """Ticks of the model's table left out at the noisy end."""
    drop_smallest: Annotated[int, Range(0, 10**6)] = 10
    """Ticks of the model's table left out at the clean end."""
    low: Annotated[float | None, POSITIVE] = None
    """Smallest sigma; default the smallest tick that is left."""
    high: Annotated[float | None, POSITIVE] = None
    """Largest sigma; default the largest tick that is left."""
    jitter: Annotated[float, Range(0, 10)] = 0.2
    """In "annealed": uniform jitter of log sigma, plus or minus."""


@dataclass
class ScoreConfig:
    """How scores are estimated. The defaults are the paper's, but for antithetic, which leaves the mean as it is."""

    estimator: Annotated[Literal["eq15", "eq16", "auto", "sds"], alias("estimator")] = "eq16"
    """SJC by Eq. 15, Eq. 16, or a regression control variate (all have the same mean, the last from two noise samples
    on); or DreamFusion's score distillation, which is Eq. 16 with another weight."""
    antithetic: Annotated[bool | None, alias("antithetic")] = None
    """Noise in pairs (n, -n): less variance, same cost, same mean; default wherever the noise samples are even."""
    weighting: Annotated[Literal["sigma", "sigma2", "one"], alias("weighting")] = "sigma"
    """The update is the score times sigma (paper's code), sigma squared, or as it is."""
    guidance_rescale: Annotated[float, Range(0, 1)] = 0.0
    """How far the contrast of guided pictures is brought back to that of unguided ones (Lin et al., arXiv 2305.08891,
    Eq. 15-16), over all views that are scored together."""
    negative_prompt: str = ""
    """What guidance leads away from."""
    sigma: SigmaConfig = dataclasses.field(default_factory=SigmaConfig)


@dataclass
class LossConfig:
    """The losses beside the score. The defaults are the paper's."""

    emptiness_weight: Annotated[float, FINITE, alias("emptiness-weight")] = 1e4
    emptiness_start: Annotated[float, Range(0, 1)] = 0.5
    """Share of the run after which the weight is multiplied."""
    emptiness_multiplier: Annotated[float, FINITE] = 20.0
    emptiness_beta: Annotated[float, Range(0, HUGE)] = 10.0
    depth_weight: Annotated[float, FINITE, alias("depth-weight")] = 0.0
    """Weight of the center-depth loss; 10 to 100 for some prompts in the paper."""
    depth_window: Annotated[float, Range(0.05, 0.95)] = 50 / 64
    """Side of its central window, as a share of the image."""


@dataclass
class OptimizerConfig:
    """How the field moves. The defaults are the paper's."""

    name: Literal["adamax", "adam"] = "adamax"
    lr: Annotated[float, POSITIVE, alias("lr")] = 0.05
    background_lr: Annotated[float, Range(0, HUGE)] = 1e-4
    decay: Literal["constant", "cosine"] = "constant"
    final_lr: Annotated[float, Range(0, 1)] = 0.0
    """Learning rate at the end of a decay, as a share of the first."""


@dataclass
class OutputConfig:
    """What a run writes, and how often. None of it changes the result."""

    checkpoint_every: Annotated[int | None, STEPS] = None
    """Steps from one checkpoint to the next; default by time."""
    checkpoint_seconds: Annotated[float, POSITIVE] = 60.0
    preview_every: Annotated[int | None, STEPS] = None
    """Steps from one preview to the next; default by time."""
    preview_seconds: Annotated[float, POSITIVE] = 2.0
    metrics_every: Annotated[int, STEPS] = 10
    preview: Literal["linear", "decoded"] = "linear"
    """Of a latent model, during the run: an approximation that costs nothing, or its decoder. The last is decoded."""
    turntable_size: Annotated[int | None, Range(16, 4096)] = None
    """Pixels a side; default what the model makes, and at least 256."""
    turntable_frames: Annotated[int, Range(1, 10**5)] = 72
    turntable_fps: Annotated[int, Range(1, 240)] = 24
    elevation: Annotated[float, Range(-89, 89)] = 20.0
    """Of the turntable, degrees."""
    mesh_iso: Annotated[float | None, POSITIVE] = None
    """Density of the surface that is extracted as a mesh; default the one with the volume's silhouettes."""


@dataclass
class TrainConfig:
    """Everything that decides a run."""

    prompt: str = ""
    """What to make, e.g. "a red mushroom"."""
    model: str = "shapes"
    """Score model: "shapes" (embedded), a diffusers folder, or a hub id."""
    preset: Literal["model", "paper"] = "model"
    """Where the defaults come from: the model's own sjc_fast.json (else the paper), or the paper whatever the model."""
    steps: Annotated[int, STEPS] = 10_000
    seed: Annotated[int, Range(0, 2**28 - 1)] = 0
    """0 to 2^28 - 1: eight generators a seed, and torch's CPU generator keeps 32 bits."""
    output: Path | None = None
    """Run folder; default runs/<prompt>."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""
    size: Annotated[int | None, Range(4, 4096)] = None
    """Pixels a side of a rendered view; default what the model scores."""
    views: Annotated[int, Range(1, 1024)] = 1
    """Views a step."""
    noise_samples: Annotated[int, Range(1, 4096)] = 1
    """Noised copies a view, scored in one call."""
    guidance: Annotated[float, FINITE] = 100.0
    """Classifier-free guidance scale; 1 is none."""
    backend: str = "auto"
    """Renderer: "auto" (triton on a CUDA device, cpu elsewhere), "triton", "cpu" or "reference"."""
    graph: bool = True
    """Replay the step as a CUDA graph, where there is a CUDA device and the fused step runs on it."""
    attention: Literal["sdpa", "flash", "cudnn", "efficient", "xformers"] = "sdpa"
    """Attention of the network: PyTorch's own choice, one of its kernels, or xformers, an optional package."""
    fuse: bool = True
    """Call a network of Stable Diffusion's kind with fused kernels, where there is a CUDA device."""
    compile: bool = False
    """Compile the network with torch.compile instead: a slower start."""
    precision: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    """Of the network: "auto" is fp16 on a CUDA device (bf16 for networks that were made for it), else fp32."""
    lora: tuple[str, ...] = ()
    """LoRA weights for network and text encoders: .safetensors files, with a weight if wanted: a.safetensors:0.8."""
    embeddings: tuple[Path, ...] = ()
    """Learned words (textual inversion) for CLIP's text encoders: .safetensors files."""
    quantize: Literal["none", "nf4", "int8", "fp8"] = "none"
    """The network's weights in fewer bits: fp8 anywhere, each layer widened as it is called (without a CUDA graph); nf4
    and int8 by bitsandbytes, an optional package, on a CUDA device."""
    memory_limit: Annotated[float | None, Range(0.1, 1e5)] = None
    """GiB that tensors may take on the CUDA device; batches that need more are split into equal parts."""
    resume: Path | None = None
    """Run folder to continue; on a CPU to the same bits as if it had never stopped."""
    cameras: CameraConfig = dataclasses.field(default_factory=CameraConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    score: ScoreConfig = dataclasses.field(default_factory=ScoreConfig)
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    log: OutputConfig = dataclasses.field(default_factory=OutputConfig)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UserError: naming the setting and what it allows.
        """
        if not self.prompt.strip():
            raise UserError(f'the prompt is empty: say what to make, e.g. {setting("prompt")} "a red mushroom"')
        if not self.prompt.isprintable():
            raise UserError(f"{setting('prompt')} {self.prompt!r}: it must be one line of readable text")
        check_ranges(self)
        self._check_pairs()

    @property
    def weighting(self) -> str:
        """The weight of the score, a key of `paas.WEIGHTS`."""
        return "sds" if self.score.estimator == "sds" else self.score.weighting

    @property
    def antithetic(self) -> bool:
        """Whether noise comes in pairs."""
        asked = self.score.antithetic
        return self.noise_samples % 2 == 0 if asked is None else asked

    def _check_pairs(self) -> None:
        """What must fit together."""
        if self.antithetic and self.noise_samples % 2:
            name = setting("noise_samples")
            raise UserError(f"{name} {self.noise_samples}: antithetic noise comes in pairs, give an even one")
        if self.score.estimator == "sds" and self.score.weighting != "sigma":
            name = setting("score.weighting")
            raise UserError(f"{name} {self.score.weighting}: score distillation has a weight of its own")
        sigma = self.score.sigma
        for name, (low, high) in {
            "cameras.fov": self.cameras.fov,
            "cameras.v": self.cameras.v,
            "cameras.elevation": self.cameras.elevation,
            "score.sigma.low and high": (sigma.low or TINY, sigma.high or HUGE),
        }.items():
            if low > high:
                raise UserError(f"{setting(name)} {low:g} {high:g}: give the smaller one first")
        if self.cameras.sampling == "rig" and self.views % RIG:
            name = setting("views")
            raise UserError(f"{name} {self.views}: a rig has {RIG} views, so give a multiple of {RIG}")
        if not self.cameras.directions:
            raise UserError("cameras: directions: at least one is needed")


def check_ranges(config: Any, prefix: str = "") -> None:
    """Refuse numbers outside their field's `Range`, in a whole tree.

    Raises:
        UserError: naming the setting and its range.
    """
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.")
        elif (allowed := range_of(type(config), field.name)) is not None:  # pyright: ignore[reportUnknownArgumentType]
            numbers = cast("tuple[float | None, ...]", value if isinstance(value, tuple) else (value,))
            for number in numbers:
                if number is not None and not (math.isfinite(number) and allowed.low <= number <= allowed.high):
                    raise UserError(f"{setting(name)} {_plain(number)}: it must be {allowed}")


def range_of(kind: type, name: str) -> Range | None:
    """The range that stands beside a field; None for what is no number."""
    hint = _annotations(kind)[name]
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)), None)


@functools.cache
def _annotations(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


#: Settings by the names that they had in files of earlier versions, which are read, and by which runs are told apart.
FORMER_NAMES = {"sampling": "law", "background_color": "background_colour"}

#: Settings that later versions added: runs that leave them as they are go on to be known as they were.
ADDED = ("cameras.elevation", "score.guidance_rescale", "embeddings", "quantize")

#: Options that do not change the result, but for roundings on a device, and so may differ when a run is resumed.
FREE_TO_CHANGE = ("output", "resume", "device", "log", "graph", "fuse", "memory_limit")


def to_dict(config: Any) -> dict[str, Any]:
    """The tree as plain dicts, lists, numbers and strings."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def merge(config: Any, tree: Any, where: str = "configuration") -> Any:
    """A copy of a config dataclass with the values of a (partial) plain tree put in.

    Raises:
        UserError: a key that does not exist, or a value of the wrong kind.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{where}: expected a table of settings, found {tree!r}")
    hints = typing.get_type_hints(type(config))  # pyright: ignore[reportUnknownArgumentType]
    current_names = {FORMER_NAMES[name]: name for name in hints if name in FORMER_NAMES}
    changes: dict[str, Any] = {}
    for given, value in cast("dict[str, Any]", tree).items():
        key = current_names.get(given, given)
        if key not in hints:
            raise UserError(f"{where}: unknown setting {key!r}; known: {', '.join(hints)}")
        if key == "lora" and not isinstance(value, list | tuple):  # of earlier versions: a path or nothing
            value = [] if value is None else [value]
        if key == "lora":
            value = list(map(str, cast("list[Any]", value)))
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            changes[key] = merge(current, value, f"{where}: {key}")
        else:
            changes[key] = _convert(value, hints[key], f"{where}: {key}")
    return dataclasses.replace(config, **changes)


def _convert(value: Any, kind: Any, where: str) -> Any:
    """A plain value as the annotated type, or a UserError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    wrong = UserError(f"{where}: {value!r} is not {getattr(kind, '__name__', str(kind))}")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise wrong
        values = cast("list[Any]", value)
        kinds: Any = [arguments[0]] * len(values) if arguments[-1] is ... else arguments
        if len(kinds) != len(values):
            raise wrong
        return tuple(_convert(v, k, where) for v, k in zip(values, kinds, strict=True))
    if dataclasses.is_dataclass(kind):
        table: Any = value
        if not isinstance(table, dict) or set(table) != {f.name for f in dataclasses.fields(kind)}:  # pyright: ignore[reportUnknownArgumentType]
            raise wrong
        hints, make = typing.get_type_hints(kind), cast(Any, kind)
        return make(**{str(k): _convert(v, hints[k], where) for k, v in cast(Any, table).items()})
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if isinstance(value, int) and abs(value) > 2**63:
        raise UserError(f"{where}: that number is too large")
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong
    return value


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Every setting by its dotted name, for people: without the table of directions."""
    return {k: v for k, v in flatten(to_dict(config)).items() if k != "cameras.directions"}


def save_yaml(config: TrainConfig, path: Path) -> None:
    """Write the whole tree."""
    with atomic(path, "the configuration") as partial:
        partial.write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_yaml(path: Path) -> TrainConfig:
    """Read what `save_yaml` wrote.

    Raises:
        UserError: the file is missing, is not YAML, or does not fit the tree.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a run folder: it has no {path.name}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    return merge(TrainConfig(), tree, str(path))


def differences(a: TrainConfig, b: TrainConfig) -> list[str]:
    """What decides the result and differs, as "steps 800, now 400" lines."""
    one, two = flatten(to_dict(a)), flatten(to_dict(b))
    return [
        f"{setting(key)} {one.get(key)}, now {two.get(key)}"
        for key in one | two
        if key.split(".")[0] not in FREE_TO_CHANGE and one.get(key) != two.get(key)
    ]


def digest(config: TrainConfig) -> str:
    """A fingerprint of what decides the result, the same before and after a round through YAML."""
    settled = merge(TrainConfig(), to_dict(config))
    tree = {k: v for k, v in _former(to_dict(settled)).items() if k not in FREE_TO_CHANGE}
    usual = to_dict(TrainConfig())
    for name in ADDED:
        *group, key = name.split(".")
        of, default = (t[group[0]] if group else t for t in (tree, usual))
        if of[key] == default[key]:
            del of[key]
    if len(settled.lora) < 2:
        tree["lora"] = settled.lora[0] if settled.lora else None
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def _former(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree under the names of the first version, whose checkpoints go on to be known by them."""
    return {FORMER_NAMES.get(k, k): _former(cast("Tree", v)) if isinstance(v, dict) else v for k, v in tree.items()}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = (
            flatten(cast("Tree", value), f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
        flat |= inner
    return flat
