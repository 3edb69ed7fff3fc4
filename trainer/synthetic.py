"""Synthetic defects: a good image and a random stream -> a disturbed image and where it changed.

The image perturbation of AGPNet (arXiv 2408.07490: Gaussian noise where the mask is large) taken
further: shapes that inspection cameras see, placed where the mask is large. Learning to find what
was put into good images is the idea of DRAEM (arXiv 2108.07610: Perlin-masked texture), NSA
(arXiv 2109.15222: patches of other images) and GLASS (arXiv 2407.09359); the families and their
ranges here are ours. Works at the network's input size on 8-bit units; lengths are in units of the
image's shorter side / 256, so that a defect covers the same share at each input size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    # NDArray[np.float32]; open, since numpy's stubs widen or lose the type of nearly each product
    Image = Any  # (H, W, 3), 8-bit units
    Mask = Any  # (H, W), [0, 1]

__all__ = ["AT_BORDER", "FAMILIES", "smooth_noise", "with_defect"]

# A change below this share of the image's contrast, or below so many grey levels, is no defect:
# nothing can be asked to see it.
_LEAST_CHANGE = 0.06
_LEAST_LEVELS = 3.0
_SUBPIXELS = 4  # lines are drawn so much larger and averaged: a hair's width need not be a pixel


def with_defect(
    image: Image,
    other: Image,
    where: Mask,
    family: str,
    random: np.random.Generator,
) -> tuple[Image, NDArray[np.bool_]]:
    """The image with one synthetic defect.

    Args:
        image: float32 (H, W, 3), 8-bit units; stays as it is.
        other: another good image of the same shape, a source of texture.
        where: float32 (H, W), not negative; defects are centred in proportion to it.
        family: one of FAMILIES.
        random: the stream that decides everything.

    Returns:
        The disturbed image, float32 (H, W, 3) in [0, 255], and the mask (H, W) of the pixels that
        visibly changed; it can be empty.
    """
    centre = _draw_centre(where, random)
    changed = FAMILIES[family](image, other, centre, random)
    changed = np.clip(changed, 0.0, 255.0).astype(np.float32)
    difference = np.abs(changed - image).max(axis=2)
    low, high = np.percentile(image, (2.0, 98.0))
    least = max(_LEAST_CHANGE * (high - low), _LEAST_LEVELS)
    mask = (difference > max(least, 0.2 * float(difference.max()))).astype(np.uint8)
    # what lies between changed pixels is part of the defect: rough places change every other one
    side = 2 * round(2.0 * _unit(image)) + 1
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return changed, closed > 0


def smooth_noise(shape: tuple[int, int], cells: float, random: np.random.Generator) -> Mask:
    """Value noise in [0, 1] with about `cells` hills along the shorter side, cubic between them."""
    shorter = min(shape)
    rows, columns = (max(round(cells * side / shorter) + 3, 4) for side in shape)
    coarse = random.random((rows, columns), dtype=np.float32)
    fine = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    low, high = float(fine.min()), float(fine.max())
    return np.asarray((fine - low) / max(high - low, 1e-6), np.float32)


def _draw_centre(where: Mask, random: np.random.Generator) -> tuple[float, float]:
    total = np.cumsum(where, dtype=np.float64).ravel()
    index = int(np.searchsorted(total, random.random() * total[-1])) if total[-1] > 0 else 0
    if total[-1] <= 0:
        index = int(random.integers(where.size))
    y, x = divmod(min(index, where.size - 1), where.shape[1])
    return float(x), float(y)


def _unit(image: Image) -> float:
    return float(min(image.shape[:2])) / 256.0


def _toned(image: Image, share: Mask, random: np.random.Generator, *, dark: float) -> Image:
    """The image darker or brighter by `share`; of colour images now and then in one hue only."""
    gain = np.ones(3, np.float32)
    if random.random() < 0.3 and float(np.abs(image[..., 0] - image[..., 2]).max()) > 1.0:
        gain = random.uniform(0.2, 1.0, 3).astype(np.float32)
    weight = share[..., None] * gain
    if random.random() < dark:
        floor = float(np.percentile(image, 1.0)) * random.uniform(0.3, 1.0)
        return image + weight * (np.minimum(image, floor) - image)
    ceiling = min(float(np.percentile(image, 99.0)) * random.uniform(1.0, 1.5) + 10.0, 255.0)
    return image + weight * (np.maximum(image, ceiling) - image)


def _lines(shape: tuple[int, int], paths: list[NDArray[np.float64]], widths: list[float]) -> Mask:
    """Polylines (n, 2) of x, y, drawn with widths in pixels, as coverage in [0, 1]."""
    large = np.zeros((shape[0] * _SUBPIXELS, shape[1] * _SUBPIXELS), np.uint8)
    for path, width in zip(paths, widths, strict=True):
        points = np.round(path * _SUBPIXELS).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(large, [points], False, 255, max(round(width * _SUBPIXELS), 1))
    small = cv2.resize(large, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255.0


def _walk(
    centre: tuple[float, float], length: float, step: float, turn: float,
    random: np.random.Generator,
) -> NDArray[np.float64]:  # fmt: skip
    """A path of that length through the centre whose direction wanders by `turn` radians a step."""
    count = max(int(length / step), 2)
    heading = random.uniform(0.0, 2.0 * np.pi) + np.cumsum(random.normal(0.0, turn, count))
    steps = step * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    path = np.cumsum(steps, axis=0)
    return np.asarray(path - path[count // 2] + np.array(centre))


def _crack(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """Thin wandering lines, mostly dark, now and then with a branch."""
    unit = _unit(image)
    length = unit * np.exp(random.uniform(np.log(20.0), np.log(180.0)))
    paths = [_walk(centre, length, 4.0 * unit, random.uniform(0.05, 0.45), random)]
    if random.random() < 0.3:
        joint = paths[0][random.integers(len(paths[0]))]
        paths.append(_walk((joint[0], joint[1]), length * 0.5, 4.0 * unit, 0.3, random))
    width = unit * random.uniform(0.5, 2.5)
    share = _lines(image.shape[:2], paths, [width] * len(paths))
    share *= random.uniform(0.25, 1.0) * (0.4 + 0.6 * smooth_noise(image.shape[:2], 8.0, random))
    return _toned(image, share, random, dark=0.8)


def _scratch(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """One to four nearly parallel lines, straight or gently bent, bright or dark."""
    unit = _unit(image)
    length = unit * random.uniform(15.0, 120.0)
    first = _walk(centre, length, 4.0 * unit, random.uniform(0.0, 0.06), random)
    count = int(random.integers(1, 5))
    paths = [first + random.normal(0.0, 5.0 * unit, 2) * (index > 0) for index in range(count)]
    widths = [float(w) for w in unit * random.uniform(0.5, 3.0, count)]
    share = _lines(image.shape[:2], paths, widths) * np.float32(random.uniform(0.2, 1.0))
    return _toned(image, share, random, dark=0.4)


def _blob(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """One to four round spots with soft edges: holes, grains, drops."""
    unit = _unit(image)
    share = np.zeros(image.shape[:2], np.float32)
    y, x = np.indices(share.shape, np.float32)
    for index in range(int(random.integers(1, 5))):
        radius = unit * np.exp(random.uniform(np.log(1.5), np.log(16.0)))
        aspect, angle = random.uniform(0.4, 1.0), random.uniform(0.0, np.pi)
        offset = random.normal(0.0, 25.0 * unit, 2) * (index > 0)
        dx, dy = x - centre[0] - offset[0], y - centre[1] - offset[1]
        u = (dx * np.cos(angle) + dy * np.sin(angle)) / radius
        v = (dy * np.cos(angle) - dx * np.sin(angle)) / (radius * aspect)
        soft = random.uniform(0.1, 0.8)
        share = np.maximum(share, np.clip((1.0 - np.hypot(u, v)) / soft, 0.0, 1.0))
    return _toned(image, share * np.float32(random.uniform(0.2, 1.0)), random, dark=0.65)


def _patch(
    shape: tuple[int, int], centre: tuple[float, float], random: np.random.Generator,
    smallest: float, largest: float,
) -> Mask:  # fmt: skip
    """A ragged region round the centre, in [0, 1]; radius in units of the shorter side / 256."""
    unit = min(shape) / 256.0
    radius = unit * np.exp(random.uniform(np.log(smallest), np.log(largest)))
    aspect, angle = np.exp(random.uniform(-0.9, 0.9)), random.uniform(0.0, np.pi)
    y, x = np.indices(shape, np.float32)
    dx, dy = x - centre[0], y - centre[1]
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / (radius * aspect**0.5)
    v = (dy * np.cos(angle) - dx * np.sin(angle)) * aspect**0.5 / radius
    ragged = smooth_noise(shape, 256.0 * unit / max(radius, 4.0), random)
    return np.clip((1.4 - np.hypot(u, v) - ragged) * random.uniform(2.0, 8.0), 0.0, 1.0)


def _texture(
    image: Image, other: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """A ragged region shows another place: of this image or another, shifted, turned, toned."""
    source = other if random.random() < 0.5 else image
    if source.shape[0] == source.shape[1]:
        source = np.rot90(source, int(random.integers(0, 4)))
    source = np.flip(source, axis=1) if random.random() < 0.5 else source
    shift = [int(random.integers(side // 8, side - side // 8)) for side in source.shape[:2]]
    source = np.roll(source, shift, axis=(0, 1))
    share = _patch(image.shape[:2], centre, random, 6.0, 45.0)[..., None]
    if random.random() < 0.5:  # the place's own brightness: only the texture tells
        source = source - _local_mean(source, share) + _local_mean(image, share)
    else:
        source = source * np.float32(random.uniform(0.7, 1.4))
    return image + share * np.float32(random.uniform(0.4, 1.0)) * (source - image)


def _local_mean(image: Image, share: Mask) -> Image:
    mean = (image * share).sum(axis=(0, 1)) / max(float(share.sum()), 1e-6)
    return np.asarray(mean, np.float32)


def _shade(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """A large region is darker or brighter, with a soft border: uneven finish, stains."""
    share = _patch(image.shape[:2], centre, random, 18.0, 110.0)
    share = cv2.GaussianBlur(share, (0, 0), _unit(image) * random.uniform(1.5, 14.0))
    strength = np.exp(random.choice((-1.0, 1.0)) * random.uniform(0.12, 0.7))
    return image * (1.0 + share[..., None] * np.float32(strength - 1.0))


def _blur(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """A region has lost its texture, or has too much of it: smeared, worn, rough."""
    share = _patch(image.shape[:2], centre, random, 8.0, 60.0)[..., None]
    sigma = _unit(image) * random.uniform(1.0, 4.0)
    smooth = cv2.GaussianBlur(image, (0, 0), sigma)
    amount = 1.0 if random.random() < 0.5 else -random.uniform(1.0, 2.5)
    return image + share * np.float32(amount) * (smooth - image)


def _chunk(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """An angular piece is missing or covered: nearly one tone, with a rim."""
    unit = _unit(image)
    count = int(random.integers(4, 9))
    angles = np.sort(random.uniform(0.0, 2.0 * np.pi, count))
    radii = (
        unit * np.exp(random.uniform(np.log(6.0), np.log(45.0))) * random.uniform(0.5, 1.0, count)
    )
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + centre
    share = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(share, [np.round(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    weight = share.astype(np.float32)[..., None] / 255.0
    tone = np.percentile(image, random.uniform(0.0, 100.0), axis=(0, 1))
    fill = tone * random.uniform(0.6, 1.3) + random.normal(0.0, 4.0, image.shape[:2])[..., None]
    fill += (smooth_noise(image.shape[:2], 6.0, random)[..., None] - 0.5) * 0.3 * tone
    return image + weight * np.float32(random.uniform(0.5, 1.0)) * (fill - image)


def _grain(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """A region is rough: noise of one grain size, over the texture."""
    share = _patch(image.shape[:2], centre, random, 8.0, 60.0)
    noise = random.normal(0.0, 1.0, image.shape[:2]).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), _unit(image) * random.uniform(0.3, 2.5))
    noise /= max(float(noise.std()), 1e-6)
    low, high = np.percentile(image, (2.0, 98.0))
    strength = random.uniform(0.06, 0.35) * max(high - low, 10.0)
    return image + (share * noise * np.float32(strength))[..., None]


def _hairline(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """A long crack no wider than a pixel or two, hardly darker than its surroundings."""
    unit = _unit(image)
    length = unit * random.uniform(40.0, 200.0)
    path = _walk(centre, length, 3.0 * unit, random.uniform(0.03, 0.25), random)
    share = _lines(image.shape[:2], [path], [unit * random.uniform(0.3, 1.3)])
    share *= random.uniform(0.3, 0.8) * (0.3 + 0.7 * smooth_noise(image.shape[:2], 10.0, random))
    return _toned(image, share, random, dark=0.9)


def _pit(image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator) -> Image:
    """One to three holes: a dark core, and the rim that faces the light is bright."""
    unit = _unit(image)
    light = random.uniform(0.0, 2.0 * np.pi)
    core, rim = np.zeros(image.shape[:2], np.float32), np.zeros(image.shape[:2], np.float32)
    y, x = np.indices(core.shape, np.float32)
    for index in range(int(random.integers(1, 4))):
        radius = unit * np.exp(random.uniform(np.log(1.5), np.log(9.0)))
        offset = random.normal(0.0, 20.0 * unit, 2) * (index > 0)
        dx, dy = x - centre[0] - offset[0], y - centre[1] - offset[1]
        distance = np.hypot(dx, dy) / radius
        core = np.maximum(core, np.clip((1.1 - distance) / 0.3, 0.0, 1.0))
        facing = np.clip((dx * np.cos(light) + dy * np.sin(light)) / (radius * 1.2), 0.0, 1.0)
        rim = np.maximum(rim, facing * np.clip(1.0 - np.abs(distance - 1.25) / 0.35, 0.0, 1.0))
    low, high = np.percentile(image, (1.0, 99.0))
    strength = np.float32(random.uniform(0.35, 1.0))
    floor = float(low) * random.uniform(0.2, 0.9)
    holed = image + (strength * core)[..., None] * (np.minimum(image, floor) - image)
    ceiling = float(high) * random.uniform(0.9, 1.3)
    lit = (strength * np.float32(random.uniform(0.0, 0.8)) * rim)[..., None]
    return holed + lit * (np.maximum(holed, ceiling) - holed)


def _border_frame(
    shape: tuple[int, int], centre: tuple[float, float]
) -> tuple[Mask, Mask, float, int]:
    """Pixels' depth from the border nearest to the centre, their place along it, the centre's."""
    y, x = np.indices(shape, np.float32)
    gaps = (centre[1], shape[0] - 1 - centre[1], centre[0], shape[1] - 1 - centre[0])
    side = int(np.argmin(gaps))
    depth = (y, shape[0] - 1 - y, x, shape[1] - 1 - x)[side]
    if side < 2:
        return depth, x, centre[0], shape[1]
    return depth, y, centre[1], shape[0]


def _chip(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """A bite out of the nearest border, in one tone, with a rim of broken material."""
    unit = _unit(image)
    depth, along, place, length = _border_frame(image.shape[:2], centre)
    width = unit * np.exp(random.uniform(np.log(8.0), np.log(60.0)))
    deepest = min(width, unit * 35.0) * random.uniform(0.3, 1.0)
    ragged = 0.7 + 0.6 * smooth_noise((length, length), 24.0, random)[length // 2]
    ragged += random.normal(0.0, 0.06, length).astype(np.float32)
    positions = np.arange(length, dtype=np.float32)
    bow = np.clip(1.0 - ((positions - place) / (width / 2.0)) ** 2, 0.0, None) ** 0.5
    profile = (deepest * bow * ragged)[along.astype(np.intp)]
    inside = np.clip((profile - depth) / max(0.7 * unit, 0.7), 0.0, 1.0)
    rim = np.clip(1.0 - np.abs(depth - profile) / (2.0 * unit), 0.0, 1.0) * (profile > 0)
    tone = np.percentile(image, random.choice((0.5, 2.0, 98.0, 99.5)), axis=(0, 1))
    fill = tone * random.uniform(0.5, 1.2) + random.normal(0.0, 3.0, image.shape[:2])[..., None]
    bitten = image + inside[..., None] * np.float32(random.uniform(0.6, 1.0)) * (fill - image)
    return _toned(bitten, rim * np.float32(random.uniform(0.0, 0.7)), random, dark=0.4)


def _fray(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """Along a piece of the nearest border the surface is torn into strokes that point inwards."""
    unit = _unit(image)
    depth, along, place, length = _border_frame(image.shape[:2], centre)
    width = unit * random.uniform(40.0, 200.0)
    reach = unit * np.exp(random.uniform(np.log(6.0), np.log(40.0)))
    strokes = random.normal(0.0, 1.0, length).astype(np.float32)[None]
    strokes = cv2.GaussianBlur(strokes, (0, 0), unit * random.uniform(0.6, 2.5))[0]
    strokes /= max(float(strokes.std()), 1e-6)
    positions = np.arange(length, dtype=np.float32)
    ends = np.clip((width / 2.0 - np.abs(positions - place)) / (0.2 * width), 0.0, 1.0)
    index = along.astype(np.intp)
    depths = reach * ends * (0.6 + 0.4 * np.abs(strokes))
    share = np.clip((depths[index] - depth) / (0.3 * reach), 0.0, 1.0)
    low, high = np.percentile(image, (2.0, 98.0))
    strength = random.uniform(0.15, 0.5) * max(high - low, 10.0)
    offset = random.uniform(-1.0, 1.0)
    return image + (share * (strokes[index] + offset) * np.float32(strength))[..., None]


def _uneven(
    image: Image, _: Image, centre: tuple[float, float], random: np.random.Generator
) -> Image:
    """Blotches over a good part of the image, without any edge, darker or brighter."""
    unit = _unit(image)
    y, x = np.indices(image.shape[:2], np.float32)
    radius = unit * random.uniform(50.0, 160.0)
    near = np.exp(-0.5 * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2)
    blotches = smooth_noise(image.shape[:2], random.uniform(1.0, 6.0), random)
    share = np.clip((blotches * near - 0.15) * random.uniform(1.2, 2.5), 0.0, 1.0)
    share = cv2.GaussianBlur(share.astype(np.float32), (0, 0), 6.0 * unit)
    strength = np.exp(random.choice((-1.0, 1.0)) * random.uniform(0.25, 1.0))
    return image * (1.0 + share[..., None] * np.float32(strength - 1.0))


FAMILIES: dict[str, Callable[[Image, Image, tuple[float, float], np.random.Generator], Image]] = {
    "crack": _crack,
    "scratch": _scratch,
    "blob": _blob,
    "texture": _texture,
    "shade": _shade,
    "blur": _blur,
    "chunk": _chunk,
    "grain": _grain,
    "hairline": _hairline,
    "pit": _pit,
    "chip": _chip,
    "fray": _fray,
    "uneven": _uneven,
}
# They start at a border of the image, which has to be the object's or the frame's.
AT_BORDER = frozenset({"chip", "fray"})
