"""Motion made visible, and in the forms of other programs: video, key frames, BVH, GLB, AMASS, a page in 3D."""
