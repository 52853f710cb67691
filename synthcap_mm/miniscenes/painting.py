"""The two looks of the mini-world: photos, which stand for real images, and the painter's drawings.

A photo has texture, light, shadows, clutter, noise and a tilted horizon; a
drawing is flat, clean, outlined and washed out. The painter stands for a text-to-image
model: it reads the caption's text and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np

from synthcap_mm.miniscenes.language import complete, parse
from synthcap_mm.miniscenes.scenes import INDOOR, KINDS, Group, Scene, pick
from synthcap_mm.miniscenes.shapes import RGB, SHAPES, Placed, layout
from synthcap_mm.options import Chance, Range
from synthcap_mm.registry import MODELS

if TYPE_CHECKING:
    from PIL.Image import Image

#: Sky or wall, and ground or floor, of each place.
_BACKDROP = {
    "beach": ((150, 200, 235), (228, 205, 150)),
    "street": ((190, 200, 210), (98, 98, 104)),
    "field": ((160, 205, 240), (105, 170, 75)),
    "forest": ((75, 110, 70), (95, 105, 55)),
    "snow": ((205, 215, 230), (238, 242, 250)),
    "desert": ((240, 210, 160), (215, 165, 95)),
    "lake": ((170, 205, 230), (70, 130, 175)),
    "kitchen": ((240, 225, 180), (170, 120, 80)),
    "bedroom": ((200, 180, 210), (150, 110, 90)),
    "bathroom": ((190, 225, 225), (205, 210, 215)),
}
_LIGHTING = {"day": (1.0, 1.0, 1.0), "sunset": (1.12, 0.76, 0.58), "night": (0.6, 0.65, 0.85)}
_INK = (70, 70, 75)


def _tone(colour: Sequence[float], factor: float) -> tuple[int, int, int]:
    return tuple(int(min(255, max(0, c * factor))) for c in colour)


class _Brush:
    """Draws with coordinates in shares of the picture's side; flat or outlined."""

    def __init__(self, size: int, colour: tuple[int, int, int], ink: bool) -> None:
        from PIL import Image, ImageDraw

        self.size, self.ink = size, ink
        self.image = Image.new("RGB", (size, size), colour)
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Sequence[float], colour: tuple[int, int, int]) -> None:
        xy = [p * self.size for p in points]
        self.draw.polygon(xy, fill=colour, outline=_INK if self.ink else None, width=2)

    def ellipse(self, box: Sequence[float], colour: tuple[int, int, int]) -> None:
        xy = [p * self.size for p in box]
        self.draw.ellipse(xy, fill=colour, outline=_INK if self.ink else None, width=2)

    def line(self, points: Sequence[float], colour: tuple[int, int, int], width: float) -> None:
        self.draw.line([p * self.size for p in points], fill=colour, width=max(1, round(width * self.size)))

    def box(self, box: Sequence[float], colour: tuple[int, int, int]) -> None:
        x0, y0, x1, y1 = box
        self.polygon((x0, y0, x1, y0, x1, y1, x0, y1), colour)


@dataclass
class _Place:
    """What the drawing of a place goes by.

    Attributes:
        ground: colour of the ground or floor.
        horizon: where it ends, as a share of the picture's height from the top.
        vary: gives a colour as this picture has it.
        rng: of the picture.
    """

    ground: tuple[int, int, int]
    horizon: float
    vary: Callable[[Sequence[float]], tuple[int, int, int]]
    rng: np.random.Generator


def _beach(brush: _Brush, place: _Place) -> None:
    u = place.rng.random
    brush.box((-0.1, place.horizon, 1.1, place.horizon + 0.12), place.vary((50, 125, 190)))
    for i in range(3):
        y = place.horizon + 0.03 + 0.03 * i
        brush.line((0, y, 1, y + 0.01 * u()), (225, 240, 250), 0.012)


def _street(brush: _Brush, place: _Place) -> None:
    u = place.rng.random
    x = -0.05 * u()
    while x < 1.0:
        w = 0.14 + 0.16 * u()
        top = place.horizon * (0.1 + 0.6 * u())
        brush.box(
            (x, top, x + w, place.horizon),
            place.vary(pick(place.rng, ((150, 110, 95), (125, 130, 140), (175, 160, 135)))),
        )
        for wx in np.arange(x + 0.03, x + w - 0.03, 0.06):
            for wy in np.arange(top + 0.04, place.horizon - 0.04, 0.08):
                brush.draw.rectangle(
                    (wx * brush.size, wy * brush.size, (wx + 0.025) * brush.size, (wy + 0.035) * brush.size),
                    fill=(235, 225, 150),
                )
        x += w
    for x in np.arange(-0.1 + 0.2 * u(), 1.0, 0.26):
        brush.line((x, 0.8, x + 0.13, 0.8), (240, 240, 225), 0.025)


def _field(brush: _Brush, place: _Place) -> None:
    u = place.rng.random
    brush.ellipse(
        (-0.3 + 0.4 * u(), place.horizon - 0.12, 0.9 + 0.3 * u(), place.horizon + 0.14), place.vary((120, 175, 90))
    )
    brush.box((-0.1, place.horizon + 0.02, 1.1, 1.1), place.ground)
    for _ in range(26):
        x, y = u(), place.horizon + 0.05 + (1 - place.horizon) * u()
        brush.line((x, y, x + 0.02, y - 0.05), place.vary((70, 130, 50)), 0.01)


def _forest(brush: _Brush, place: _Place) -> None:
    u = place.rng.random
    for _ in range(8):
        x, w = u(), 0.05 + 0.05 * u()
        brush.box((x, -0.1, x + w, place.horizon + 0.06), place.vary((85, 60, 40)))
    for _ in range(9):
        x, y, r = u(), 0.22 * u(), 0.1 + 0.08 * u()
        brush.ellipse((x - r, y - r, x + r, y + r), place.vary((45, 105, 45)))


def _snow(brush: _Brush, place: _Place) -> None:
    u = place.rng.random
    x = 0.2 + 0.6 * u()
    brush.polygon((x - 0.4, place.horizon, x, 0.12, x + 0.4, place.horizon), place.vary((160, 170, 190)))
    brush.polygon((x - 0.12, 0.24, x, 0.12, x + 0.12, 0.24), (250, 250, 255))
    for _ in range(30):
        x, y = u(), u()
        brush.ellipse((x, y, x + 0.018, y + 0.018), (255, 255, 255))


def _desert(brush: _Brush, place: _Place) -> None:
    u = place.rng.random
    for _ in range(3):
        x = u()
        brush.ellipse((x - 0.4, place.horizon - 0.08, x + 0.4, place.horizon + 0.2), place.vary((225, 180, 110)))
    brush.box((-0.1, place.horizon + 0.08, 1.1, 1.1), place.ground)
    x = pick(place.rng, (0.08, 0.9)) + 0.04 * u()
    green = place.vary((60, 125, 70))
    brush.line((x, place.horizon - 0.22, x, place.horizon + 0.12), green, 0.05)
    brush.line((x - 0.07, place.horizon - 0.12, x - 0.07, place.horizon - 0.02, x, place.horizon - 0.02), green, 0.035)
    brush.line((x + 0.07, place.horizon - 0.15, x + 0.07, place.horizon, x, place.horizon), green, 0.035)


def _lake(brush: _Brush, place: _Place) -> None:
    u = place.rng.random
    for i in range(5):
        x = i * 0.25 - 0.1 + 0.1 * u()
        brush.polygon(
            (x - 0.2, place.horizon, x, place.horizon - 0.12 - 0.12 * u(), x + 0.2, place.horizon),
            place.vary((70, 110, 85)),
        )
    for _ in range(14):
        x, y = u(), place.horizon + 0.03 + 0.28 * u()
        brush.line((x, y, x + 0.12, y), (190, 220, 235), 0.012)
    brush.ellipse((-0.3, 0.78, 1.3, 1.3), place.vary((120, 140, 75)))


def _kitchen(brush: _Brush, place: _Place) -> None:
    u = place.rng.random
    for i in range(4):
        x = i * 0.26 - 0.05 * u()
        brush.box((x, 0.0, x + 0.24, 0.2), place.vary((165, 105, 60)))
        brush.box((x, place.horizon - 0.06, x + 0.24, place.horizon + 0.14), place.vary((225, 225, 220)))
    brush.box((-0.1, place.horizon - 0.1, 1.1, place.horizon - 0.05), place.vary((90, 85, 85)))
    for i in range(1, 6):
        brush.line((i / 6, place.horizon + 0.15, (i / 6 - 0.5) * 2 + 0.5, 1), place.vary((135, 90, 60)), 0.012)


def _bedroom(brush: _Brush, place: _Place) -> None:
    u = place.rng.random
    x = 0.05 + 0.5 * u()
    brush.box((x, 0.08, x + 0.3, 0.34), (215, 235, 250))
    brush.line((x + 0.15, 0.08, x + 0.15, 0.34), (240, 240, 240), 0.02)
    side = pick(place.rng, (-0.1, 0.5))
    brush.box((side, place.horizon - 0.1, side + 0.6, place.horizon + 0.16), place.vary((110, 130, 175)))
    brush.box((side, place.horizon - 0.14, side + 0.6, place.horizon - 0.02), (240, 240, 245))


def _bathroom(brush: _Brush, place: _Place) -> None:
    lines = place.vary((145, 185, 190))
    for i in range(1, 8):
        brush.line((i / 8, 0, i / 8, place.horizon), lines, 0.012)
    for y in np.arange(0.1, place.horizon, 0.12):
        brush.line((0, y, 1, y), lines, 0.012)
    for i in range(-3, 12):
        brush.line((i / 8, place.horizon, (i / 8 - 0.5) * 2.2 + 0.5, 1), place.vary((150, 155, 165)), 0.012)
    x = pick(place.rng, (-0.1, 0.55))
    brush.ellipse((x, place.horizon - 0.1, x + 0.55, place.horizon + 0.2), (250, 250, 250))
    brush.ellipse((x + 0.04, place.horizon - 0.08, x + 0.51, place.horizon + 0.02), place.vary((190, 215, 225)))


#: Draws what tells a place from the others.
_PLACES = {
    "beach": _beach,
    "street": _street,
    "field": _field,
    "forest": _forest,
    "snow": _snow,
    "desert": _desert,
    "lake": _lake,
    "kitchen": _kitchen,
    "bedroom": _bedroom,
    "bathroom": _bathroom,
}


def _background(scene: Scene, rng: np.random.Generator, size: int, photo: bool) -> _Brush:
    """The place: sky and ground, and what tells this place from the others."""
    place = scene.place
    vary = (
        (lambda c: _tone(c, 0.85 + 0.3 * rng.random()))
        if photo
        else (lambda c: _tone([0.2 * v + 0.8 * 255 for v in c], 1.0))
    )
    sky, ground = (vary(c) for c in _BACKDROP[place])
    horizon = 0.5 + (rng.random() - 0.5) * 0.16
    brush = _Brush(size, sky, not photo)
    u = rng.random
    brush.box((-0.1, horizon, 1.1, 1.1), ground)
    if place not in INDOOR:
        if scene.light == "night":
            x = 0.1 + 0.8 * u()
            brush.ellipse((x, 0.05, x + 0.1, 0.15), (255, 255, 235))
            for _ in range(12):
                x, y = u(), u() * horizon
                brush.draw.point((x * size, y * size), fill=(255, 255, 255))
        elif scene.light == "sunset":
            x = 0.1 + 0.7 * u()
            brush.ellipse((x, horizon - 0.14, x + 0.2, horizon + 0.06), (255, 170, 70))
            brush.box((-0.1, horizon, 1.1, 1.1), ground)
    _PLACES[place](brush, _Place(ground, horizon, vary, rng))
    return brush


def _tile(item: Placed, size: int, rng: np.random.Generator, photo: bool) -> Image:
    """One object on a transparent ground."""
    from PIL import Image, ImageDraw

    w, h = max(3, round(item.width * size)), max(3, round(item.height * size))
    base = RGB[item.colour] if photo else tuple(0.8 * c + 0.2 * 255 for c in RGB[item.colour])
    if photo:
        base = tuple(c * (0.86 + 0.24 * rng.random()) + 14 * (rng.random() - 0.5) for c in base)
    tile = Image.new("RGBA", (w, h), (*_tone(base, 1.0), 0))
    draw = ImageDraw.Draw(tile)
    for form, name, tone, numbers in SHAPES[item.kind]:
        own = base if not name else RGB[name]
        if item.colour == "black" and not name:
            tone = 1 + (1 - tone) * 1.6 if tone < 1 else 1 + (tone - 1) * 4
        colour = (*_tone(own, tone), 255)
        outline = None if photo else (*_tone(own, 0.45 * tone), 255)
        width = 0
        if form in "lo":
            *numbers, width = numbers
            width = max(1, round(width * (w + h) / 2))
        xs = [(1 - x if item.flip else x) * (w - 1) for x in numbers[0::2]]
        ys = [y * (h - 1) for y in numbers[1::2]]
        box = (min(xs), min(ys), max(xs), max(ys))
        if form == "p":
            draw.polygon(list(zip(xs, ys)), fill=colour, outline=outline, width=2)
        elif form == "l":
            draw.line(list(zip(xs, ys)), fill=colour, width=width, joint="curve")
        elif form == "e":
            draw.ellipse(box, fill=colour, outline=outline, width=2)
        elif form == "r":
            draw.rectangle(box, fill=colour, outline=outline, width=2)
        elif form == "o":
            draw.ellipse(box, outline=colour, width=width)
        else:
            draw.pieslice(box, 180, 360, fill=colour, outline=outline, width=2)
    if photo:
        # Light from one side, and a grain of its own.
        pixels = np.asarray(tile).astype(np.float32)
        ramp = np.linspace(1.18, 0.72, w, dtype=np.float32)
        if rng.random() < 0.5:
            ramp = ramp[::-1]
        fall = np.linspace(1.1, 0.85, h, dtype=np.float32)
        grain = 1 + 0.06 * rng.standard_normal((h, w), dtype=np.float32)
        pixels[..., :3] *= (ramp[None, :] * fall[:, None] * grain)[..., None]
        tile = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")
        tile = tile.rotate((rng.random() - 0.5) * 14, Image.Resampling.BILINEAR, expand=True)
    return tile


#: Where an object is: kind, colour, and ``(x1, y1, x2, y2)`` as shares of the picture's side.
Where = tuple[str, str, tuple[float, float, float, float]]


def _turned(p: Placed, degrees: float, edge: float) -> tuple[float, float, float, float]:
    """The box around an object after the picture was turned and ``edge`` (a share) was cut off all around."""
    turn = np.deg2rad(degrees)
    x = np.array([-1.0, 1.0, 1.0, -1.0]) * p.width / 2 + p.x - 0.5
    y = np.array([0.0, 0.0, -1.0, -1.0]) * p.height + p.foot - 0.5
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    corners = np.array([x.min(), y.min(), x.max(), y.max()]) / (1 - 2 * edge) + 0.5
    return tuple(corners.clip(0, 1).tolist())


def _render(scene: Scene, rng: np.random.Generator, size: int, photo: bool) -> tuple[Image, list[Where]]:
    """The picture, and where its objects are, the farthest first."""
    from PIL import Image, ImageDraw, ImageFilter

    big = size * 2
    brush = _background(scene, rng, big, photo)
    canvas = brush.image
    placed = layout(scene, rng)
    if photo:
        # Clutter that nobody would mention: stones, leaves, crumbs.
        for _ in range(int(rng.integers(3, 12))):
            x, y, r = rng.random(), 0.55 + 0.45 * rng.random(), 0.008 + 0.022 * rng.random()
            brush.ellipse((x - r, y - r * 0.7, x + r, y + r * 0.7), _tone((130, 120, 105), 0.4 + rng.random()))
        shade = Image.new("L", (big, big), 255)
        draw = ImageDraw.Draw(shade)
        lean = (rng.random() - 0.5) * 0.3
        for p in placed:
            if KINDS[p.kind].flies:
                continue
            x, w = p.x + lean * p.height, p.width * 0.55
            box = (x - w, p.foot - 0.05, x + w, p.foot + 0.035)
            draw.ellipse([v * big for v in box], fill=120)
        shade = shade.filter(ImageFilter.BoxBlur(big // 40))
        dark = np.asarray(shade, dtype=np.float32)[..., None] / 255
        canvas = Image.fromarray((np.asarray(canvas) * dark).astype(np.uint8))
    for p in placed:
        tile = _tile(p, big, rng, photo)
        x, y = round(p.x * big - tile.width / 2), round(p.foot * big - tile.height)
        canvas.paste(tile, (x, y), tile)
    if not photo:
        small = canvas.resize((size, size), Image.Resampling.BOX)
        light = np.array(_LIGHTING[scene.light])
        if scene.light != "day":
            small = Image.fromarray(np.clip(np.asarray(small) * (0.35 + 0.65 * light), 0, 255).astype(np.uint8))
        return small, [(p.kind, p.colour, _turned(p, 0.0, 0.0)) for p in placed]
    degrees = (rng.random() - 0.5) * 12
    canvas = canvas.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_tone(RGB["gray"], 0.8))
    edge = big // 22
    canvas = canvas.resize((size, size), Image.Resampling.BOX, box=(edge, edge, big - edge, big - edge))
    if rng.random() < 0.3:
        canvas = canvas.filter(ImageFilter.GaussianBlur(0.4 + 0.4 * rng.random()))
    pixels = np.asarray(canvas, dtype=np.float32)
    # Uneven light, coarse texture, a colour cast and the sensor's noise.
    coarse = rng.standard_normal((8, 8), dtype=np.float32) * 0.09 + 1
    coarse = np.asarray(Image.fromarray(coarse, "F").resize((size, size), Image.Resampling.BICUBIC))
    slope = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    light = 1 + 0.3 * ((rng.random() - 0.5) * slope[None, :] + (rng.random() - 0.5) * slope[:, None])
    cast = np.array([0.93 + 0.14 * rng.random() for _ in range(3)], dtype=np.float32)
    cast *= np.array(_LIGHTING[scene.light], dtype=np.float32) * (0.85 + 0.3 * rng.random())
    pixels = pixels * (coarse * light)[..., None] * cast
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * (4 + 6 * rng.random())
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image, [(p.kind, p.colour, _turned(p, degrees, edge / big)) for p in placed]


def photograph(scene: Scene, size: int = 64) -> Image:
    """The photo of a scene; ``scene.seed`` settles positions, texture and noise.

    Args:
        scene: a complete scene.
        size: side of the picture in pixels. Defaults to 64 (assumed).
    """
    return annotated_photograph(scene, size)[0]


def annotated_photograph(scene: Scene, size: int = 64) -> tuple[Image, list[Where]]:
    """:func:`photograph`, and where its objects are: what a detector learns from.

    Args:
        scene: a complete scene.
        size: side of the picture in pixels. Defaults to 64 (assumed).

    Returns:
        The picture, and for each object, the farthest first: kind, colour, and
        ``(x1, y1, x2, y2)`` as shares of the picture's side, within it.
    """
    return _render(scene, np.random.default_rng([scene.seed, 1]), size, photo=True)


def draw(scene: Scene, size: int = 64) -> Image:
    """A drawing of a scene; ``scene.seed`` settles the positions.

    Args:
        scene: a complete scene.
        size: side of the picture in pixels. Defaults to 64 (assumed).
    """
    return _render(scene, np.random.default_rng([scene.seed, 2]), size, photo=False)[0]


@MODELS.register_module()
class MiniScenesPainter:
    """Stands for a text-to-image model: caption in, drawing out.

    It reads the caption's text and nothing else, settles by the seed what the
    caption leaves open (place, light, colours, sizes, positions), and gets
    things wrong at the stated rates.

    Args:
        drop: chance that a picture of two groups lacks one of them. Defaults to 0.1 (assumed).
        recolour: chance, for each group, that it gets another of its kind's
            colours. Defaults to 0.1 (assumed).
        miscount: chance, for each group, that one object is missing or too
            many. Defaults to 0.1 (assumed).
        size: side of the picture in pixels. Defaults to 64 (assumed).
    """

    not_in_recipe: tuple[str, ...] = ()
    recipe_version: int = 1

    def __init__(
        self,
        drop: Chance = 0.1,
        recolour: Chance = 0.1,
        miscount: Chance = 0.1,
        size: Annotated[int, Range("[16, 4096]")] = 64,
    ) -> None:
        self.drop, self.recolour, self.miscount, self.size = drop, recolour, miscount, size

    def _spoil(self, group: Group, rng: np.random.Generator) -> Group:
        if rng.random() < self.recolour:
            group = replace(group, colour=pick(rng, [c for c in KINDS[group.kind].colours if c != group.colour]))
        if rng.random() < self.miscount:
            group = replace(group, count=2 if group.count == 1 else group.count + pick(rng, (-1, 1)))
        return group

    def plan(self, caption: str, seed: int) -> tuple[Scene, Scene]:
        """The scene as understood and the scene as drawn, mistakes included.

        Raises:
            ValueError: if the caption names no object of the mini-world.
        """
        words = int.from_bytes(hashlib.blake2b(caption.encode(), digest_size=8).digest(), "little")
        rng = np.random.default_rng([words, abs(int(seed))])
        meant = complete(parse(caption), rng)
        main, other, relation = self._spoil(meant.main, rng), meant.other, meant.relation
        if other is not None:
            other = self._spoil(other, rng)
            if rng.random() < self.drop:
                main, other, relation = (main if rng.random() < 0.5 else other), None, None
        return meant, replace(meant, main=main, other=other, relation=relation)

    def generate(self, captions: list[str], seeds: list[int]) -> list[Image]:
        """Draw one picture for each caption.

        Args:
            captions: sentences.
            seeds: one for each; the same caption and seed give the same picture.

        Returns:
            RGB pictures of ``size`` × ``size`` pixels.

        Raises:
            ValueError: if the lists differ in length, or a caption names no known object.
        """
        if len(captions) != len(seeds):
            raise ValueError(f"MiniScenesPainter: {len(captions)} captions but {len(seeds)} seeds")
        return [draw(self.plan(c, s)[1], self.size) for c, s in zip(captions, seeds)]
