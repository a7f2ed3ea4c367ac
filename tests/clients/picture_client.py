#!/usr/bin/env python3
"""Drives a running endpoint that serves autoglm-nano with pictures, good and bad, by the official `openai` package.

    picture_client.py http://127.0.0.1:8000/v1

Exits as openai_client.py does.
"""

import base64
import struct
import sys
import zlib

import openai

from openai_client import GOLDENS, Endpoint, equal, refused, run

# Of one prompt, by default.
PICTURES_MAX = 10
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def png(width, height, data=None):
    """A gray PNG; where `data` is not given, all black."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = zlib.compress(bytes((width + 1) * height)) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def url(file, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def about(*urls, text="打开微信"):
    pictures = [{"type": "image_url", "image_url": {"url": u}} for u in urls]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


@check
def pictures_cost_tokens_by_their_size(e):
    def tokens(*urls):
        answer = e.client.chat.completions.create(model=e.model, messages=about(*urls), max_tokens=1, temperature=0)
        return answer.usage.prompt_tokens

    one, other = url(png(56, 84)), url(png(280, 140))
    text, first, second, both = tokens(), tokens(one), tokens(other), tokens(one, other)
    assert text < first and text < second, (text, first, second)
    equal(both - text, (first - text) + (second - text), "tokens of two pictures")


@check
def the_same_picture_gives_the_same_answer_streamed_and_again(e):
    golden, output = e.first(picture=True)
    for _ in range(2):
        equal(e.ask(golden).choices[0].message.content, output["text"], "answer")
        chunks = [c.choices[0].delta.content for c in e.ask(golden, stream=True) if c.choices]
        equal("".join(c or "" for c in chunks), output["text"], "streamed")


@check
def bad_pictures_are_refused_and_the_server_goes_on(e):
    golden, output = e.first(picture=True)
    whole = (GOLDENS.parent / golden["image"]).read_bytes()
    bad = {
        "a truncated file": [url(whole[: len(whole) // 2])],
        "a header alone": [url(whole[:33])],
        "no picture": [url(b"<svg/>")],
        "nothing": [url(b"")],
        "not base64": ["data:image/png;base64,%%%"],
        "a bomb": [url(png(60_000, 60_000, zlib.compress(bytes(1 << 20))))],
        "a strip": [url(png(1, 100_000))],
        "a side of 2^31 - 1": [url(png(2**31 - 1, 2**31 - 1, b""))],
        f"{PICTURES_MAX + 1} pictures": [url(png(28, 28))] * (PICTURES_MAX + 1),
        "a path": ["file:///etc/passwd"],
        "a host": ["http://127.0.0.1:1/a.png"],
    }
    for name, urls in bad.items():
        try:
            e.client.chat.completions.create(model=e.model, messages=about(*urls), max_tokens=1)
        except openai.BadRequestError as error:
            body = error.body
            assert body["code"] and body["message"] and body["param"], f"{name}: {body}"
        else:
            raise AssertionError(f"{name} was taken")
    token = about(url(png(28, 28)), text="<|image|>")
    refused(
        openai.BadRequestError,
        "image_placeholder_mismatch",
        lambda: e.client.chat.completions.create(model=e.model, messages=token, max_tokens=1),
    )
    equal(e.ask(golden).choices[0].message.content, output["text"], "the answer afterwards")


if __name__ == "__main__":
    sys.exit(run(CHECKS, Endpoint, __doc__))
