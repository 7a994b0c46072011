"""Package definition: installs ``sjc_fast``, and the folder ``kernels/`` as ``sjc_fast.kernels``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "sjc_fast" / "__init__.py").read_text(encoding="utf-8"))[1]
LINUX = "platform_system == 'Linux'"

setup(
    name="sjc-fast",
    version=VERSION,
    description="Text to 3D by Score Jacobian Chaining: a fast engine with a small embedded diffusion model",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # A top-level module named ``kernels`` would shadow a PyPI package that diffusers and transformers probe for.
    package_dir={"sjc_fast": "sjc_fast", "sjc_fast.kernels": "kernels"},
    packages=[
        *find_packages(include=["sjc_fast", "sjc_fast.*"], exclude=["sjc_fast.kernels", "sjc_fast.kernels.*"]),
        *("sjc_fast." + name for name in find_packages(include=["kernels", "kernels.*"])),
    ],
    package_data={
        "sjc_fast": ["py.typed"],
        "sjc_fast.shapes": ["weights/*", "weights/*/*"],
        "sjc_fast.kernels": ["csrc/*"],
        "sjc_fast.runs": ["templates/*"],
    },
    install_requires=[
        "torch>=2.11",
        f"triton>=3.6; {LINUX}",
        "diffusers>=0.36",
        "transformers>=4.57",
        "accelerate>=1.0",
        "peft>=0.17",
        "safetensors>=0.5",
        "tokenizers>=0.21",
        "numpy>=1.26",
        "scikit-image>=0.24",
        "imageio>=2.35",
        "imageio-ffmpeg>=0.5",
        "pillow>=10.1",
        "jinja2>=3.1",
        "scipy>=1.11",
        "matplotlib>=3.8",
        "xatlas>=0.0.9",
        "fast-simplification>=0.1.9",
        "embreex>=2.17.7",
        "trimesh>=4.4",
        "tensorboard>=2.17",
        "viser>=1.0",
        "tqdm>=4.66",
        "tyro>=1.0",
        "pyyaml>=6.0",
        "ninja>=1.11",
    ],
    extras_require={
        "xformers": [f"xformers>=0.0.30; {LINUX}"],
        "wandb": ["wandb>=0.19"],
        "farm": ["ray>=2.50"],
        "s3": ["s3fs>=2024.6"],
        "dev": [
            "pytest>=8",
            "pytest-benchmark>=4",
            "pytest-xdist>=3",
            "ruff>=0.9",
            "pyright[nodejs]>=1.1.400",
            "clang-format>=18",
            "build>=1.2",
            "av>=12",
            "plyfile>=1.0",
            "playwright>=1.48",
            "wandb>=0.19",
            "ray>=2.50",
            "s3fs>=2024.6",
            "moto[server]>=5.1",
        ],
    },
    entry_points={"console_scripts": ["sjc-fast=sjc_fast.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Graphics :: 3D Modeling",
    ],
)
