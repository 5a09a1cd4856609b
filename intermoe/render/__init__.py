"""Motion made visible: video, key frames, BVH."""
