"""Many objects on the Ray cluster that this runs in: ``python farm.py prompts.txt s3://bucket/objects``."""

import sys

from sjc_fast.cli import main

if __name__ == "__main__":
    prompts, output = sys.argv[1:]
    main(["batch", prompts, "--output", output, "--farm", "auto"])
