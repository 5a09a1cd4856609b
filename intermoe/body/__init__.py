"""Bodies: skeletons, rotations, kinematics, and the features that describe their motion."""
