"""Draw the scenes of the demo data sets: shapes on textured grounds, and stick figures."""

from dataclasses import dataclass

import cv2
import numpy as np

SHAPES = ("disc", "square", "triangle", "star", "cross")
# Hues in OpenCV's units, 0 to 179.
HUES = {"red": 0, "orange": 14, "yellow": 28, "lime": 44, "green": 60, "cyan": 90, "blue": 120, "purple": 150}

# Ground textures: name -> (color in BGR, strength of the noise, pattern of the stripes or None).
GROUNDS = {
    "sky": ((205, 165, 120), 14, None),
    "grass": ((60, 120, 80), 26, "diagonal"),
    "sea": ((140, 105, 45), 16, "waves"),
    "sand": ((125, 170, 195), 22, None),
}


@dataclass(frozen=True)
class Thing:
    """An object in a scene.

    Args:
        name (str): Name of the class.
        mask (np.ndarray): Mask of the visible part (H, W, bool).
    """

    name: str
    mask: np.ndarray


def make_outline(shape: str, center: tuple[float, float], radius: float, angle: float) -> np.ndarray:
    """Return the polygon (P, 2) of a shape, in pixels. ``angle`` is in radians."""
    if shape == "disc":
        turns, radii = np.linspace(0, 2 * np.pi, 48, endpoint=False), np.ones(48)
    elif shape == "square":
        turns, radii = np.pi / 4 + np.arange(4) * np.pi / 2, np.full(4, 1.1)
    elif shape == "triangle":
        turns, radii = np.arange(3) * 2 * np.pi / 3, np.full(3, 1.2)
    elif shape == "star":
        turns, radii = np.arange(10) * np.pi / 5, np.tile([1.25, 0.5], 5)
    else:  # cross: three corners for each arm
        arm = np.array([(1.15, -0.38), (1.15, 0.38), (0.38, 0.38)])
        corners = np.concatenate([arm @ np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])
        turns, radii = np.arctan2(corners[:, 1], corners[:, 0]), np.hypot(corners[:, 0], corners[:, 1])
    turns = turns + angle
    return np.asarray(center) + radius * radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)


def make_noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Return smooth noise (H, W, float32) of about unit variance, with blobs of about ``cell`` pixels."""
    coarse = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def draw_ground(rng: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    """Return an image (H, W, 3, float32, BGR) filled with a texture of ``GROUNDS``."""
    color, strength, stripes = GROUNDS[name]
    image = np.asarray(color, np.float32) + rng.uniform(-15, 15, 3).astype(np.float32)
    image = image + strength * make_noise(rng, height, width, 20)[..., None]
    y, x = np.mgrid[:height, :width].astype(np.float32) * 0.5
    if stripes == "diagonal":
        image += 14 * np.sign(np.sin((x + 2 * y) * rng.uniform(0.5, 0.8)))[..., None]
    elif stripes == "waves":
        image += 18 * np.sin(y * rng.uniform(0.5, 0.8) + 2 * np.sin(x * 0.1))[..., None]
    return image + 5 * rng.standard_normal((height, width, 1)).astype(np.float32)


def draw_backdrop(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw sky above a second ground, with a wavy horizon between them.

    Returns:
        tuple: Image (H, W, 3, float32, BGR), and the mask (H, W, bool) of each ground by name.
    """
    below = str(rng.choice(["grass", "sea", "sand"]))
    x = np.arange(width)
    horizon = height * (rng.uniform(0.25, 0.6) + 0.05 * np.sin(x * rng.uniform(4, 12) / width + rng.uniform(0, 6)))
    sky = np.arange(height)[:, None] < horizon[None]
    image = np.where(sky[..., None], draw_ground(rng, "sky", height, width), draw_ground(rng, below, height, width))
    return image, {"sky": sky, below: ~sky}


def draw_shape(rng: np.random.Generator, image: np.ndarray, shape: str, hue: str, center, radius, angle=None):
    """Draw a shape into ``image`` (H, W, 3, float32, BGR) in place, and return its mask (H, W, bool)."""
    height, width = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi) if angle is None else angle
    polygon = np.round(make_outline(shape, center, radius, angle)).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [polygon], 1)
    hsv = np.uint8([[[(HUES[hue] + rng.integers(-5, 6)) % 180, rng.integers(150, 256), rng.integers(140, 256)]]])
    color = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)
    visible = mask.astype(bool)
    image[visible] = (color + 12 * make_noise(rng, height, width, 12)[..., None])[visible]
    cv2.polylines(image, [polygon], True, (color * 0.5).tolist(), max(1, round(radius / 16)), cv2.LINE_AA)
    return visible


def draw_scene(
    rng: np.random.Generator, height: int, width: int, kinds: dict[str, tuple[str, str]], least: int = 1, most: int = 5
) -> tuple[np.ndarray, list[Thing], dict[str, np.ndarray]]:
    """Draw a backdrop with objects on it. Later objects cover earlier ones.

    An object is left out if its square would cover more than half of an earlier object, or if fewer than 60 of its
    pixels stay visible. A scene can therefore have fewer objects than ``least``.

    Args:
        rng (np.random.Generator): Source of all random numbers.
        height (int): Height of the image in pixels.
        width (int): Width of the image in pixels.
        kinds (dict): (shape, hue) of each class, by name.
        least (int): Smallest number of objects. Defaults to 1.
        most (int): Largest number of objects. Defaults to 5.

    Returns:
        tuple: Image (H, W, 3, uint8, BGR), the visible objects, and the visible mask (H, W, bool) of each ground by
        name.
    """
    image, grounds = draw_backdrop(rng, height, width)
    things: list[Thing] = []
    for _ in range(rng.integers(least, most + 1)):
        name = str(rng.choice(list(kinds)))
        radius = min(height, width) * rng.uniform(0.13, 0.26)
        center = rng.uniform((radius, radius), (width - radius, height - radius))
        box = np.zeros((height, width), bool)
        x, y, r = *center.astype(int), int(radius)
        box[max(y - r, 0) : y + r, max(x - r, 0) : x + r] = True
        if any((thing.mask & box).sum() > 0.5 * thing.mask.sum() for thing in things):
            continue
        mask = draw_shape(rng, image, *kinds[name], center, radius)
        things = [*(Thing(thing.name, thing.mask & ~mask) for thing in things), Thing(name, mask)]
    things = [thing for thing in things if thing.mask.sum() >= 60]
    covered = np.any([thing.mask for thing in things], axis=0)
    return to_uint8(image), things, {name: mask & ~covered for name, mask in grounds.items()}


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Clip an image to the range 0 to 255 and convert it to uint8."""
    return np.clip(image, 0, 255).astype(np.uint8)


# COCO's 17 keypoints in COCO's order, with their positions in an upright figure that faces the viewer. The origin is
# the middle of the hips, x points to the viewer's right and y down, and the unit is the figure's height. The left side
# of the figure is on the viewer's right.
KEYPOINTS = {
    "nose": (0, -0.42), "left_eye": (0.025, -0.45), "right_eye": (-0.025, -0.45),
    "left_ear": (0.055, -0.43), "right_ear": (-0.055, -0.43),
    "left_shoulder": (0.11, -0.30), "right_shoulder": (-0.11, -0.30),
    "left_elbow": (0.14, -0.16), "right_elbow": (-0.14, -0.16),
    "left_wrist": (0.15, -0.02), "right_wrist": (-0.15, -0.02),
    "left_hip": (0.075, 0), "right_hip": (-0.075, 0),
    "left_knee": (0.08, 0.22), "right_knee": (-0.08, 0.22),
    "left_ankle": (0.085, 0.44), "right_ankle": (-0.085, 0.44),
}  # fmt: skip
LIMBS = [("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")]
MAX_SWING = {"elbow": 1.2, "wrist": 1.4, "knee": 0.45, "ankle": 0.4}  # largest swing of a joint, in radians


def draw_figure(
    rng: np.random.Generator, image: np.ndarray, hips: tuple[float, float], size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a stick figure in a random pose into ``image`` (H, W, 3, float32, BGR) in place.

    The left limbs have warm colors and the right limbs cold colors, so that a model can distinguish the sides.

    Args:
        rng (np.random.Generator): Source of all random numbers.
        image (np.ndarray): Image to draw into.
        hips (tuple[float, float]): Position (x, y) of the middle of the hips, in pixels.
        size (float): Height of the figure in pixels.

    Returns:
        tuple: Keypoints (17, 2) in pixels and the mask (H, W, bool) of the figure.
    """
    rest = {name: np.asarray(xy, float) for name, xy in KEYPOINTS.items()}
    pose = dict(rest)
    for side in ("left", "right"):
        for parent, child in LIMBS:
            swing = rng.uniform(-0.2, 1) * MAX_SWING[child] * (1 if side == "right" else -1)
            c, s = np.cos(swing), np.sin(swing)
            bone = rest[f"{side}_{child}"] - rest[f"{side}_{parent}"]
            pose[f"{side}_{child}"] = pose[f"{side}_{parent}"] + (c * bone[0] - s * bone[1], s * bone[0] + c * bone[1])
    tilt = rng.uniform(-0.25, 0.25)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    points = {name: np.asarray(hips) + size * (xy @ turn) for name, xy in pose.items()}

    mask = np.zeros(image.shape[:2], np.uint8)

    def draw(function, *args):
        *where, color, thickness = args
        function(image, *where, color, thickness, cv2.LINE_AA)
        function(mask, *where, 1, thickness)

    def at(name):
        return tuple(int(v) for v in np.round(points[name]))

    thick = max(2, round(size / 18))
    shirt = tuple(float(v) for v in rng.uniform(150, 230, 3))
    torso = np.array(
        [at(f"{s}_{j}") for s, j in (("left", "shoulder"), ("right", "shoulder"), ("right", "hip"), ("left", "hip"))]
    )
    cv2.fillPoly(image, [torso], shirt, cv2.LINE_AA)
    cv2.fillPoly(mask, [torso], 1)
    for side, upper, lower in (("left", (40, 60, 230), (40, 150, 250)), ("right", (220, 70, 40), (220, 200, 50))):
        for (parent, child), color in zip(LIMBS, (upper, lower, upper, lower), strict=True):
            draw(cv2.line, at(f"{side}_{parent}"), at(f"{side}_{child}"), color, thick)
    points["neck"] = (points["left_shoulder"] + points["right_shoulder"]) / 2
    points["head"] = (points["left_ear"] + points["right_ear"]) / 2
    draw(cv2.line, at("neck"), at("head"), (150, 190, 235), thick)
    draw(cv2.circle, at("head"), max(3, round(0.075 * size)), (150, 190, 235), -1)
    dot = max(1, round(size / 80))
    for name, color in (
        ("left_eye", (40, 60, 230)),
        ("right_eye", (220, 70, 40)),
        ("nose", (20, 20, 20)),
        ("left_ear", (40, 150, 250)),
        ("right_ear", (220, 200, 50)),
    ):
        draw(cv2.circle, at(name), dot, color, -1)
    return np.stack([points[name] for name in KEYPOINTS]), mask.astype(bool)
