"""The training step: configuration, schedule, losses, steps, CUDA graphs, the trainer, checkpoints."""
