"""A run as people meet it: its folder, its settings, what it writes down about itself, and what it prints."""
