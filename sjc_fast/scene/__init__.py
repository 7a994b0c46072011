"""3D only: the voxel field, cameras, direction words, posed photographs. Nothing here knows a score model."""
