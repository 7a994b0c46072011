"""What a finished field becomes: pictures, videos, meshes."""
