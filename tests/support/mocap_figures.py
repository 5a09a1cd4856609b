"""The figures of sources of motion capture in round numbers: their joints, and where a bone points in the zero pose."""

from itertools import pairwise

from intermoe.body.skeletons import SMPL22

Figure = dict[str, tuple[str | None, tuple[float, float, float]]]


def upright(names: dict[str, str], unit: float) -> Figure:
    """A figure whose zero pose is a T-pose: feet 0.94 m below the pelvis, head 0.6 m above, wrists 0.75 m out."""
    metres: dict[str, tuple[str | None, tuple[float, float, float]]] = {"pelvis": (None, (0, 0, 0))}
    trunk = ["pelvis", *[name for name in names if name.startswith("spine")]]
    for parent, name in pairwise(trunk):
        metres[name] = (parent, (0, 0.3 / (len(trunk) - 1), 0))
    metres |= {"neck": (trunk[-1], (0, 0.2, 0)), "head": ("neck", (0, 0.1, 0))}
    for side, left in (("left", 1), ("right", -1)):
        chain = [
            ("hip", (0.1 * left, -0.06, 0)), ("knee", (0, -0.4, 0)), ("ankle", (0, -0.4, 0)), ("foot", (0, -0.08, 0.1)),
            ("collar", (0.05 * left, 0.1, 0)), ("shoulder", (0.1 * left, 0, 0)), ("elbow", (0.3 * left, 0, 0)),
            ("wrist", (0.3 * left, 0, 0)),
        ]  # fmt: skip
        parents = {"hip": "pelvis", "collar": trunk[-1]}
        for before, (part, offset) in zip(["", *[part for part, _ in chain]], chain, strict=False):
            metres[f"{side}_{part}"] = (parents.get(part, f"{side}_{before}"), offset)
    figure: Figure = {}
    for name, (above, offset) in metres.items():
        x, y, z = (value / unit for value in offset)
        figure[names[name]] = (None if above is None else names[above], (x, y, z))
    return figure


def named(
    pattern: str, spine: list[str], limbs: list[str], sides: tuple[str, str] = ("Left", "Right")
) -> dict[str, str]:
    """The joints of SMPL's 22 by the names of a source; ``limbs`` from hip to foot, from collar to wrist."""
    names = {"pelvis": pattern.format("Hips"), "neck": pattern.format("Neck"), "head": pattern.format("Head")}
    names |= {f"spine{number}": pattern.format(name) for number, name in enumerate(spine, start=1)}
    parts = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")
    for side, prefix in (("left", "Left"), ("right", "Right")):
        names |= {f"{side}_{part}": pattern.format(prefix + limb) for part, limb in zip(parts, limbs, strict=True)}
    return names


HUMAN_IK = ["UpLeg", "Leg", "Foot", "ToeBase", "Shoulder", "Arm", "ForeArm", "Hand"]
ROKOKO = ["Thigh", "Shin", "Foot", "Toe", "Shoulder", "Arm", "ForeArm", "Hand"]
MIXAMO = named("mixamorig:{}", ["Spine", "Spine1", "Spine2"], HUMAN_IK)


def cmu_motionbuilder() -> Figure:
    figure = upright(named("{}", ["LowerBack", "Spine", "Spine1"], HUMAN_IK), 0.0564)
    thirds = 0.15 / 0.0564
    figure |= {"LowerBack": ("Hips", (0, 0, 0)), "Spine": ("LowerBack", (0, thirds, 0))}
    figure |= {"Spine1": ("Spine", (0, thirds, 0)), "Neck": ("Spine1", (0, 0, 0)), "Neck1": ("Neck", (0, thirds, 0))}
    figure |= {"Head": ("Neck1", (0, thirds, 0)), "LHipJoint": ("Hips", (0, 0, 0)), "RHipJoint": ("Hips", (0, 0, 0))}
    for side in ("Left", "Right"):
        _, offset = figure[f"{side}UpLeg"]
        figure[f"{side}UpLeg"] = (f"{side[0]}HipJoint", offset)
    return figure


def lafan1() -> Figure:
    """Every bone points along x; the left side lies at +z."""
    figure: Figure = {"Hips": (None, (-200, 90, -400))}
    trunk = ["Hips", "Spine", "Spine1", "Spine2", "Neck", "Head"]
    for (parent, name), length in zip(pairwise(trunk), (10, 10, 10, 20, 10), strict=True):
        figure[name] = (parent, (length, 0, 0))
    for side, z in (("Left", 1), ("Right", -1)):
        figure |= {f"{side}UpLeg": ("Hips", (-6, 0, 10 * z)), f"{side}Shoulder": ("Spine2", (10, 0, 5 * z))}
        for chain, lengths in ((["UpLeg", "Leg", "Foot", "Toe"], (40, 40, 12)), (HUMAN_IK[4:], (10, 30, 30))):
            for (parent, name), length in zip(pairwise(chain), lengths, strict=True):
                figure[side + name] = (side + parent, (length, 0, 0))
    return figure


def bandai_namco() -> Figure:
    """Bones point along x, those of the right side's limbs along -x."""
    figure: Figure = {"joint_Root": (None, (0, 0, 0)), "Hips": ("joint_Root", (0, 90, 0))}
    trunk = ["Hips", "Spine", "Chest", "Neck", "Head"]
    for (parent, name), length in zip(pairwise(trunk), (20, 10, 20, 10), strict=True):
        figure[name] = (parent, (length, 0, 0))
    for side, sign in (("_L", 1), ("_R", -1)):
        figure["UpperLeg" + side] = ("Hips", (-6, -10 * sign, 0))
        figure["Shoulder" + side] = ("Chest", (10, 0, 5 * sign))
        leg, arm = ["UpperLeg", "LowerLeg", "Foot", "Toes"], ["Shoulder", "UpperArm", "LowerArm", "Hand"]
        for chain, lengths in ((leg, (40, 40, 12)), (arm, (10, 30, 30))):
            for (parent, name), length in zip(pairwise(chain), lengths, strict=True):
                figure[name + side] = (parent + side, (length * sign, 0, 0))
    return figure


def bvh_text(
    figure: Figure, order: str, angles: dict[str, tuple[float, ...]], place: tuple[float, ...], frames: int
) -> str:
    """That many frames of one pose; the joint that ``place`` is for is the one that all hang from but a plain root."""
    children: dict[str | None, list[str]] = {}
    for name, (parent, _) in figure.items():
        children.setdefault(parent, []).append(name)
    numbers: list[float] = []

    def joint(name: str, keyword: str) -> list[str]:
        placed = name == "Hips" or figure[name][0] is None
        channels = ["Xposition", "Yposition", "Zposition"] * placed + [f"{axis}rotation" for axis in order]
        numbers.extend(place if name == pelvis else (0.0, 0.0, 0.0) if placed else ())
        numbers.extend(angles.get(name, (0.0, 0.0, 0.0)))
        lines = [f"{keyword} {name}", "{", "OFFSET " + " ".join(map(str, figure[name][1]))]
        lines.append(f"CHANNELS {len(channels)} {' '.join(channels)}")
        for child in children.get(name, []):
            lines += joint(child, "JOINT")
        if name not in children:
            lines += ["End Site", "{", "OFFSET 0 0 0", "}"]
        return [*lines, "}"]

    (root,) = children[None]
    pelvis = "Hips" if "Hips" in figure else root
    hierarchy = joint(root, "ROOT")
    row = " ".join(map(str, numbers))
    return "\n".join(["HIERARCHY", *hierarchy, "MOTION", f"Frames: {frames}", "Frame Time: 0.0333333", *[row] * frames])


LAFAN1_POSE: dict[str, tuple[float, ...]] = {
    "Hips": (90, 0, 90), "LeftUpLeg": (180, 0, 180), "RightUpLeg": (180, 0, 180), "LeftLeg": (-90, 0, 0),
    "LeftFoot": (65, 0, 0), "RightFoot": (65, 0, 0), "LeftToe": (25, 0, 0), "RightToe": (25, 0, 0),
    "LeftShoulder": (180, -90, 0), "RightShoulder": (180, 90, 0),
}  # fmt: skip
BANDAI_POSE: dict[str, tuple[float, ...]] = {
    "Hips": (90, 0, 0), "Spine": (0, 90, 0), "UpperLeg_L": (180, 0, 0), "UpperLeg_R": (180, 0, 180),
    "LowerLeg_L": (0, 0, 90), "Foot_L": (0, 0, -52), "Foot_R": (0, 0, -52), "Toes_L": (0, 0, -17),
    "Toes_R": (0, 0, -17), "Shoulder_L": (-90, 0, -90), "Shoulder_R": (90, 0, -90),
}  # fmt: skip
SMPL = {name: name for name in SMPL22.joint_names}
CENTIMETRES = (100.0, 90.0, 200.0)
METRES = (1.0, 0.9, 2.0)
# By the name of the mapping: the figure, the order of its rotation channels, the angles of a T-pose with the left knee
# bent back by 90 degrees, metres in its unit, and where the pelvis is.
SOURCES: dict[str, tuple[Figure, str, dict[str, tuple[float, ...]], float, tuple[float, ...]]] = {
    "mixamo": (upright(MIXAMO, 0.01), "ZXY", {"mixamorig:LeftLeg": (0, 90, 0)}, 0.01, CENTIMETRES),
    "cmu_motionbuilder": (
        cmu_motionbuilder(), "ZYX", {"LeftLeg": (0, 0, 90)}, 0.0564, tuple(value / 0.0564 for value in METRES),
    ),
    "lafan1": (lafan1(), "ZYX", LAFAN1_POSE, 0.01, CENTIMETRES),
    "rokoko": (
        upright(named("{}", ["Spine1", "Spine2", "Spine3", "Spine4"], ROKOKO), 0.01), "YXZ", {"LeftShin": (0, 90, 0)},
        0.01, CENTIMETRES,
    ),
    "bandai_namco": (bandai_namco(), "ZXY", BANDAI_POSE, 0.01, CENTIMETRES),
    "smpl": (upright(SMPL, 1.0), "ZXY", {"left_knee": (0, 90, 0)}, 1.0, METRES),
}  # fmt: skip
