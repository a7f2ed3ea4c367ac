#!/usr/bin/env python3
"""Drives the stand-in phone of examples/phone_agent with a running endpoint that serves autoglm-nano: takes the screen through
`adb`, asks for the next action as phone agents do, and carries it out through `adb`. Then the phone's log must hold exactly what
the answers said.

    phone_client.py http://127.0.0.1:8000/v1

Answers to the goldens' screens are compared with Hugging Face's; of other answers only the form is judged. Exits 0 when every
check holds, 1 when one does not.
"""

import ast
import base64
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import openai

from openai_client import GAP_MIN, GOLDENS, equal, run

ADB = pathlib.Path(__file__).parent.parent.parent / "examples/phone_agent/bin/adb"
# What Open-AutoGLM sends with every step.
SAMPLING = {"temperature": 0, "top_p": 0.85, "frequency_penalty": 0.2, "max_tokens": 3000}
SCALE = 1000  # coordinates of an answer go from 0 to here
STEPS_MAX = 4
PACKAGES = {"微信": "com.tencent.mm", "chrome": "com.android.chrome"}
HOME_KEYBOARD, ADB_KEYBOARD = "com.example.keyboard/.Keyboard", "com.android.adbkeyboard/.AdbIME"
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Phone:
    """A stand-in in a temporary directory."""

    def __init__(self, screens={}):
        self.kept = tempfile.TemporaryDirectory()
        self.directory = pathlib.Path(self.kept.name)
        (self.directory / "screens").mkdir()
        for name, png in screens.items():
            (self.directory / "screens" / f"{name}.png").write_bytes(png)

    def environment(self):
        return {**os.environ, "PHONE_STAND_IN": str(self.directory), "PATH": f"{ADB.parent}:{os.environ['PATH']}"}

    def adb(self, *words):
        """What `adb` prints."""
        done = subprocess.run(["adb", *words], env=self.environment(), capture_output=True, timeout=60)
        assert done.returncode == 0, f"adb {' '.join(words)}: {done.stderr.decode()}"
        return done.stdout

    def shell(self, *words):
        return self.adb("shell", *words).decode()

    def done(self):
        """What was done to it; looking at it is not."""
        log = self.directory / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [one for one in map(json.loads, lines) if one["did"] != "screenshot"]

    def focus(self):
        """Package in front."""
        line = next(line for line in self.shell("dumpsys", "window").splitlines() if "mCurrentFocus" in line)
        return line.split()[-1].split("/")[0]


def action_of(text):
    """(name, arguments) of the action in an answer; finish, too, is one. None where there is none, or none that can be done."""
    start = next((text.index(begin) for begin in ("finish(message=", "do(action=") if begin in text), None)
    if start is None:
        return None
    try:
        call = ast.parse(text[start:].strip(), mode="eval").body
        name, arguments = call.func.id, {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, AttributeError):
        return None
    places = [arguments[key] for key in ("element", "start", "end") if key in arguments]
    if not all(isinstance(at, list) and len(at) == 2 and all(isinstance(part, int) for part in at) for at in places):
        return None
    return (arguments.pop("action", None) if name == "do" else "finish"), arguments


def point(element, size):
    return [int(part / SCALE * side) for part, side in zip(element, size)]


def act(phone, action, size):
    """Does an action on a screen of `size` pixels."""
    match action:
        case ("Tap", {"element": at}):
            phone.shell("input", "tap", *map(str, point(at, size)))
        case ("Double Tap", {"element": at}):
            for _ in range(2):
                phone.shell("input", "tap", *map(str, point(at, size)))
        case ("Swipe", {"start": start, "end": end}):
            phone.shell("input", "swipe", *map(str, point(start, size) + point(end, size)), "1000")
        case ("Long Press", {"element": at}):
            phone.shell("input", "swipe", *map(str, point(at, size) * 2), "3000")
        case ("Back" | "Home" as key, _):
            phone.shell("input", "keyevent", f"KEYCODE_{key.upper()}")
        case ("Launch", {"app": app}) if app in PACKAGES:
            phone.shell("monkey", "-p", PACKAGES[app], "-c", "android.intent.category.LAUNCHER", "1")
        case ("Type", {"text": text}):
            phone.shell("ime", "set", ADB_KEYBOARD)
            phone.shell("am", "broadcast", "-a", "ADB_CLEAR_TEXT")
            encoded = base64.b64encode(text.encode()).decode()
            phone.shell("am", "broadcast", "-a", "ADB_INPUT_B64", "--es", "msg", encoded)
            phone.shell("ime", "set", HOME_KEYBOARD)


def traces(action, size, packages=PACKAGES):
    """What an action leaves in the phone's log, as (did, what matters of it)."""
    match action:
        case ("Tap", {"element": at}):
            return [("tap", point(at, size))]
        case ("Double Tap", {"element": at}):
            return [("tap", point(at, size))] * 2
        case ("Swipe", {"start": start, "end": end}) if point(start, size) != point(end, size):
            return [("swipe", point(start, size) + point(end, size))]
        case ("Swipe", {"start": at}) | ("Long Press", {"element": at}):
            return [("hold", point(at, size))]
        case ("Back" | "Home" as key, _):
            return [("key", key.upper())]
        case ("Launch", {"app": app}) if app in packages:
            return [("launch", packages[app])]
        case ("Type", {"text": text}):
            return [("type", text)] if text else []
    return []


def trace(one):
    """A line of the phone's log as `traces` tells it; None for what goes with typing."""
    match one:
        case {"did": "tap" | "hold" as did, "x": x, "y": y}:
            return did, [x, y]
        case {"did": "swipe", "start": start, "end": end}:
            return "swipe", start + end
        case {"did": "key", "key": key}:
            return "key", key
        case {"did": "launch", "package": package}:
            return "launch", package
        case {"did": "type", "text": text, "arrives": True}:
            return ("type", text) if text else None
        case {"did": "clear" | "keyboard"}:
            return None
    raise AssertionError(f"nothing of the kind was to be done: {one}")


def traced(log):
    """All that happened by a phone's log, as `trace` tells it."""
    return [one for one in map(trace, log) if one]


def only_that(done, actions, packages=PACKAGES):
    """What was done is what the actions, each with its screen's size, ask for, in their order, and no more."""
    equal(done, [one for action, size in actions for one in traces(action, size, packages)], "done to the phone")


def size_of(png):
    """Width and height, pixels."""
    return list(struct.unpack(">II", png[16:24]))


class Agent:
    """Asks an endpoint what to do next."""

    def __init__(self, url):
        self.client = openai.OpenAI(base_url=url, api_key="EMPTY", max_retries=0, timeout=120)
        self.model = self.client.models.list().data[0].id

    def next(self, messages):
        """The answer's text, streamed."""
        stream = self.client.chat.completions.create(model=self.model, messages=messages, stream=True, **SAMPLING)
        text, finishes = "", []
        for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finishes += [choice.finish_reason] if choice.finish_reason else []
                assert getattr(choice.delta, "reasoning_content", None) is None, "reasoning was split off unasked"
        assert finishes in (["stop"], ["length"]), finishes
        # Agents take all that follows the action for a part of it.
        assert "</answer>" not in text, text
        return text


def seen(png):
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png).decode()}}


@check
def the_stand_in_answers_what_agents_ask_of_a_phone(_):
    phone = Phone()
    assert phone.adb("version").startswith(b"Android Debug Bridge")
    assert b"\tdevice" in phone.adb("devices")
    assert ADB_KEYBOARD in phone.shell("ime", "list", "-s")
    equal(phone.shell("wm", "size"), "Physical size: 1080x2400\n", "size")
    home = phone.adb("exec-out", "screencap", "-p")
    phone.shell("screencap", "-p", "/sdcard/tmp.png")
    pulled = phone.directory / "pulled.png"
    phone.adb("pull", "/sdcard/tmp.png", str(pulled))
    equal(pulled.read_bytes(), home, "a pulled screenshot")
    equal(size_of(home), [1080, 2400], "its size")
    act(phone, ("Launch", {"app": "微信"}), size_of(home))
    equal(phone.focus(), "com.tencent.mm", "in front after a launch")
    before = phone.adb("exec-out", "screencap", "-p")
    assert before != home
    act(phone, ("Type", {"text": "你好, it's me\n"}), size_of(home))
    assert phone.adb("exec-out", "screencap", "-p") != before, "typed text is not to be seen"
    equal(phone.shell("settings", "get", "secure", "default_input_method"), HOME_KEYBOARD + "\n", "keyboard afterwards")
    phone.shell("am", "broadcast", "-a", "ADB_INPUT_B64", "--es", "msg", "bG9zdA==")
    equal(phone.done().pop(), {"did": "type", "text": "lost", "arrives": False}, "typed to another keyboard")
    act(phone, ("Home", {}), size_of(home))
    equal(phone.adb("exec-out", "screencap", "-p"), home, "the screen after Home")
    unknown = subprocess.run(["adb", "shell", "reboot"], env=phone.environment(), capture_output=True, timeout=60)
    assert unknown.returncode != 0 and phone.done().pop()["did"] == "unknown", "an unknown command was taken"


@check
def answers_to_screens_equal_the_reference_and_reach_the_phone(agent):
    told = 0
    for golden in json.loads(GOLDENS.read_text())["conversations"]:
        output = golden["outputs"]["freq_0.2"]
        if golden["image"] is None or output["stop_id"] is None or output["min_top2_gap"] < GAP_MIN:
            continue
        picture = (GOLDENS.parent / golden["image"]).read_bytes()
        phone = Phone({"home": picture})
        screen = phone.adb("exec-out", "screencap", "-p")
        equal(screen, picture, "the screenshot")
        pictured = lambda part: seen(screen) if part["type"] == "image_url" else part
        parts = lambda content: content if isinstance(content, str) else [pictured(p) for p in content]
        text = agent.next([{**m, "content": parts(m["content"])} for m in golden["messages"]])
        equal(text, output["text"], golden["id"])
        action = action_of(text)
        act(phone, action, size_of(screen))
        only_that(traced(phone.done()), [(action, size_of(screen))])
        told += 1
    assert told >= 5, f"{told} goldens with pictures"


@check
def a_task_of_several_steps_does_to_the_phone_what_the_answers_say(agent):
    for task in ("打开微信", "Open chrome"):
        phone, actions = Phone(), []
        history = [{"role": "system", "content": "Think in <think>, then act in <answer>."}]
        for step in range(STEPS_MAX):
            screen = phone.adb("exec-out", "screencap", "-p")
            app = next((app for app, package in PACKAGES.items() if package == phone.focus()), "System Home")
            where = json.dumps({"current_app": app}, ensure_ascii=False)
            said = f"{task}\n\n{where}" if step == 0 else f"** Screen Info **\n\n{where}"
            asked = {"type": "text", "text": said}
            text = agent.next(history + [{"role": "user", "content": [seen(screen), asked]}])
            action = action_of(text)
            print(f"      {task}: {text!r}")
            if action is None or action[0] == "finish":
                break
            act(phone, action, size_of(screen))
            actions.append((action, size_of(screen)))
            # Pictures that have been acted upon are not sent again.
            history += [{"role": "user", "content": [asked]}, {"role": "assistant", "content": f"{text}</answer>"}]
        only_that(traced(phone.done()), actions)


if __name__ == "__main__":
    sys.exit(run(CHECKS, Agent, __doc__))
