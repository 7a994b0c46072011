"""Many objects on many machines, with Ray: a driver with a queue, and a worker on every device."""
