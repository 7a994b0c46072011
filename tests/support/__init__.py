"""What tests share: data, scenes, tiny pipelines, the command, other roundings."""
