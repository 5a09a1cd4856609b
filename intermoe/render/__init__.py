"""Motion made visible: video, key frames, BVH, a page in 3D."""
