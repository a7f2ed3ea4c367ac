"""The stand-in for a phone: what is on its screen, and a log of all that was done to it. It has no apps: launching one shows a
screen made of its name, and tapping a shape there shows its next page. A directory holds it between two commands:

    state.json    what is on the screen
    log.jsonl     one JSON object a line for each thing done, oldest first
    screens/      pictures of your own: home.png, PACKAGE.png and last.png go before what would be drawn (last: in every app)

Every command takes the directory's lock, so that commands at the same time come one after the other."""

import fcntl
import json
import os
import pathlib
import re

import screens

ADB_KEYBOARD = "com.android.adbkeyboard/.AdbIME"
OWN_KEYBOARD = "com.example.keyboard/.Keyboard"
HOME = "com.example.launcher"
KEYS = {"3": "HOME", "4": "BACK", "66": "ENTER", "67": "DEL"}
PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)+")
TEXT_MAX = 10_000  # characters that stay in the text field
NEW = {"package": None, "page": 0, "text": "", "keyboard": OWN_KEYBOARD, "remotes": [], "files": []}


class Phone:
    """Use it with `with`: it is read at the beginning and kept at the end."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def __enter__(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.directory / "lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        kept = self.directory / "state.json"
        self.state = json.loads(kept.read_text()) if kept.exists() else dict(NEW)
        return self

    def __exit__(self, *_):
        new = self.directory / "state.json.new"
        new.write_text(json.dumps(self.state))
        os.replace(new, self.directory / "state.json")
        self.lock.close()

    def record(self, did, **what):
        with open(self.directory / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps({"did": did, **what}, ensure_ascii=False) + "\n")

    def show(self, package, page=0):
        self.state.update(package=package, page=page, text="")

    def focus(self):
        return self.state["package"] or HOME

    def launch(self, package):
        """Whether there can be such an app."""
        known = PACKAGE.fullmatch(package) is not None
        self.record("launch", package=package, known=known)
        if known:
            self.show(package)
        return known

    def tap(self, x, y):
        on = screens.hit(self.state, x, y)
        self.record("tap", x=x, y=y, on=on)
        if on and self.state["package"] is None:
            self.show(on)
        elif on:
            self.show(self.state["package"], self.state["page"] + 1)

    def swipe(self, start, end, ms):
        if start == end:
            self.record("hold", x=start[0], y=start[1], ms=ms)
        else:
            self.record("swipe", start=start, end=end, ms=ms)

    def key(self, name):
        name = KEYS.get(name, name.removeprefix("KEYCODE_"))
        self.record("key", key=name)
        if name == "BACK" and self.state["page"] > 0:
            self.show(self.state["package"], self.state["page"] - 1)
        elif name in ("HOME", "BACK"):
            self.show(None)
        elif name == "DEL":
            self.state["text"] = self.state["text"][:-1]

    def set_keyboard(self, name):
        self.record("keyboard", name=name)
        self.state["keyboard"] = name

    def type(self, text, by_broadcast):
        """Broadcasts reach the ADB keyboard only, and only while it is the one in use."""
        arrives = not by_broadcast or self.state["keyboard"] == ADB_KEYBOARD
        self.record("type", text=text, arrives=arrives)
        if arrives:
            self.state["text"] = (self.state["text"] + text)[-TEXT_MAX:]

    def clear(self):
        self.record("clear")
        self.state["text"] = ""

    def screenshot(self):
        """PNG of the screen."""
        names = ["home"] if self.state["package"] is None else [self.state["package"], "last"]
        own = [self.directory / "screens" / f"{name}.png" for name in names]
        picture = next((p.read_bytes() for p in own if p.exists()), None) or screens.draw(self.state)
        self.record("screenshot", package=self.state["package"], page=self.state["page"])
        return picture
