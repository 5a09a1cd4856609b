"""The measures of an evaluation: names and headings."""

from collections.abc import Mapping, Sequence

# What stands above a column, and which way is better: "↑" more, "↓" less, "→" as near to the real row as can be.
HEADINGS: Mapping[str, str] = {
    "r_precision_top1": "R top 1 ↑",
    "r_precision_top2": "R top 2 ↑",
    "r_precision_top3": "R top 3 ↑",
    "fid": "FID ↓",
    "mm_dist": "MM Dist ↓",
    "diversity": "Diversity →",
    "multimodality": "MultiModality ↑",
    "identity": "Identity ↑",
    "identity_swapped": "with swapped captions",
    "identity_shuffled": "with shuffled captions",
    "foot_skating_cm_s": "Foot skating, cm/s →",
    "floor_penetration_cm": "In the floor, cm ↓",
    "bone_length_deviation_cm": "Bone deviation, cm ↓",
    "interpenetration_cm": "In each other, cm →",
    "jerk_m_s3": "Jerk, m/s³ →",
}


TABLES: Mapping[str, Sequence[str]] = {
    "Text and motion": tuple(HEADINGS)[:7],
    "Who acts: share of motions that agree with the caption": tuple(HEADINGS)[7:10],
    "Physical plausibility": tuple(HEADINGS)[10:],
}
