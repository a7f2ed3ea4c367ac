"""Draws the stand-in's screens as PNG: flat shapes and bars, no letters, the same bytes for the same state. Standard library
only. It decides nothing: where a screen's shapes lie is what `phone.py` asks to know what a tap has hit."""

import struct
import zlib

WIDTH, HEIGHT = 1080, 2400  # pixels
COLOURS = {
    "red": (214, 48, 49),
    "green": (24, 168, 60),
    "blue": (27, 66, 224),
    "yellow": (250, 204, 21),
    "purple": (142, 68, 173),
    "black": (20, 20, 20),
}
FORMS = ("circle", "triangle", "square")
# The icons of the home screen, by row: package and colour of its square.
ICONS = (
    ("com.tencent.mm", "green"),
    ("com.android.chrome", "yellow"),
    ("com.android.settings", "black"),
    ("com.taobao.taobao", "red"),
    ("com.xingin.xhs", "purple"),
    ("com.autonavi.minimap", "blue"),
)
ICON_SIDE, ICON_COLUMNS, RADIUS = 200, 3, 130


class Canvas:
    def __init__(self, colour):
        self.rows = [bytearray(bytes(colour) * WIDTH) for _ in range(HEIGHT)]

    def run(self, y, left, right, colour):
        left, right = max(left, 0), min(right, WIDTH)
        if 0 <= y < HEIGHT and left < right:
            self.rows[y][3 * left : 3 * right] = bytes(colour) * (right - left)

    def box(self, left, top, right, bottom, colour):
        for y in range(top, bottom):
            self.run(y, left, right, colour)

    def png(self):
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)  # eight bits, RGB, not interlaced
        pixels = zlib.compress(b"".join(b"\0" + row for row in self.rows), 1)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def icons():
    """The home screen's icons as (package, colour, left, top)."""
    gap = (WIDTH - ICON_COLUMNS * ICON_SIDE) // (ICON_COLUMNS + 1)
    for i, (package, colour) in enumerate(ICONS):
        row, column = divmod(i, ICON_COLUMNS)
        yield package, colour, gap + column * (ICON_SIDE + gap), 400 + row * (ICON_SIDE + gap)


def shapes(package, page):
    """The shapes of an app's page as (name, form, colour, x, y): one in each third of the screen's height, no two alike."""
    for third in range(3):
        hash = zlib.crc32(f"{package} {page}".encode()) + third
        colour = list(COLOURS)[hash % len(COLOURS)]
        form = FORMS[(hash >> 4) % len(FORMS)]
        x = RADIUS + zlib.crc32(str(hash).encode()) % (WIDTH - 2 * RADIUS)
        yield f"{colour} {form}", form, colour, x, 600 + third * 600


def hit(screen, x, y):
    """What is at a point of a screen: a package's icon, a shape by its name, or nothing."""
    if screen["package"] is None:
        found = (p for p, _, left, top in icons() if 0 <= x - left < ICON_SIDE and 0 <= y - top < ICON_SIDE)
    else:
        near = lambda cx, cy: abs(x - cx) <= RADIUS and abs(y - cy) <= RADIUS
        found = (name for name, _, _, cx, cy in shapes(screen["package"], screen["page"]) if near(cx, cy))
    return next(found, None)


def draw(screen):
    """PNG of a screen: `package` (None is home), `page`, `text` that was typed."""
    package = screen["package"]
    if package is None:
        canvas = Canvas((56, 78, 110))
        for _, colour, left, top in icons():
            canvas.box(left, top, left + ICON_SIDE, top + ICON_SIDE, COLOURS[colour])
    else:
        tint = zlib.crc32(package.encode())
        canvas = Canvas((200 + tint % 40, 200 + (tint >> 8) % 40, 200 + (tint >> 16) % 40))
        canvas.box(60, 180, WIDTH - 60, 300, (255, 255, 255))
        # No letters: a bar for each.
        for i in range(min(len(screen["text"]), 30)):
            canvas.box(90 + 30 * i, 210, 110 + 30 * i, 270, (60, 60, 60))
        for _, form, colour, x, y in shapes(package, screen["page"]):
            for dy in range(-RADIUS, RADIUS + 1):
                half = {
                    "circle": int((RADIUS**2 - dy**2) ** 0.5),
                    "triangle": (dy + RADIUS) // 2,
                    "square": RADIUS,
                }[form]
                canvas.run(y + dy, x - half, x + half + 1, COLOURS[colour])
    canvas.box(0, 0, WIDTH, 80, (30, 30, 46))
    return canvas.png()
