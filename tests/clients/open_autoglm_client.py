#!/usr/bin/env python3
"""Runs the unmodified Open-AutoGLM client (a checkout of it, with its requirements installed) against a running endpoint and the
stand-in phone of examples/phone_agent.

    open_autoglm_client.py http://127.0.0.1:8000/v1 CHECKOUT

Judged is what the endpoint owes the client: its own checks of a deployment pass, every step is answered, and the phone's log
holds exactly the actions that it printed. How many tasks the model solved is told, not judged: the client's prompt holds the
day's date, and a small model answers one day better than another.
"""

import pathlib
import subprocess
import sys

from openai_client import equal, run
from phone_client import Agent, Phone, action_of, only_that, size_of, traced

SECONDS_MAX = 300  # for one run of the client
STEPS_MAX = 4
DELAYS = "TAP DOUBLE_TAP LONG_PRESS SWIPE BACK HOME LAUNCH KEYBOARD_SWITCH TEXT_CLEAR TEXT_INPUT KEYBOARD_RESTORE"
# (language, task, package in front at the start, what alone must have been done to the phone)
TASKS = (
    ("cn", "打开微信", None, ("launch", "com.tencent.mm")),
    ("cn", "打开淘宝", None, ("launch", "com.taobao.taobao")),
    ("cn", "返回上一页", "com.tencent.mm", ("key", "BACK")),
    ("cn", "回到桌面", "com.tencent.mm", ("key", "HOME")),
    ("en", "Open Chrome", None, ("launch", "com.android.chrome")),
    ("en", "Open Settings", None, ("launch", "com.android.settings")),
    ("en", "Go back", "com.android.chrome", ("key", "BACK")),
    ("en", "Go to the home screen", "com.android.chrome", ("key", "HOME")),
)
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Client:
    """The checkout, pointed at an endpoint."""

    def __init__(self, url):
        self.url, self.model, self.checkout = url, Agent(url).model, CHECKOUT
        # As the client itself looks them up.
        sys.path.insert(0, str(self.checkout))
        from phone_agent.config.apps import APP_PACKAGES

        self.packages = APP_PACKAGES

    def python(self, phone, *words):
        """What a script of the checkout prints; it has no one to ask."""
        quick = {f"PHONE_AGENT_{name}_DELAY": "0" for name in DELAYS.split()}
        environment = {**phone.environment(), **quick, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS_MAX,
        )
        printed = done.stdout.decode()
        assert done.returncode == 0, f"{' '.join(words)} exits with {done.returncode}:\n{printed}"
        return printed


def actions(printed, size):
    """What a run of main.py took each answer for, as (action, size of the screen); no action in one that it could not read."""
    texts = [block.split("\n" + "-" * 50)[0] for block in printed.split("Parsing action: ")[1:]]
    return [(action_of(text.replace("\n", "\\n")), size) for text in texts]


@check
def its_checks_of_a_deployment_pass(client):
    for language in ("en", "cn"):
        script = f"scripts/check_deployment_{language}.py"
        printed = client.python(Phone(), script, "--base-url", client.url, "--model", client.model)
        answer = printed.split("=" * 80)[2].strip()
        print(f"      {script}: {answer!r}")
        assert answer, printed
        numbers = [line.split()[-1] for line in printed.splitlines() if line.startswith("  - ")]
        prompt, completion, total = map(int, numbers)
        assert 0 < prompt and 0 < completion and prompt + completion == total, printed


@check
def it_finds_the_model_by_its_exact_name(client):
    # The client for iPhones wants the name in the list of models; the other asks for an answer.
    asked = "base_url=sys.argv[1], model_name=sys.argv[2], api_key='EMPTY'"
    look = f"import sys, main, ios; print([which.check_model_api({asked}) for which in (main, ios)])"
    for url in (client.url, client.url.removesuffix("/v1") + "/api/paas/v4"):
        printed = client.python(Phone(), "-c", look, url, client.model)
        assert printed.endswith("[True, True]\n"), printed
    printed = client.python(Phone(), "-c", look, client.url, client.model + "-other")
    assert printed.endswith("[False, False]\n") and client.model in printed, printed


@check
def it_finds_the_phone(client):
    printed = client.python(Phone(), "main.py", "--list-devices")
    assert "stand-in-5554" in printed, printed


@check
def tasks_do_to_the_phone_what_it_says(client):
    solved = steps = 0
    for language, task, front, wanted in TASKS:
        phone = Phone()
        size = size_of(phone.adb("exec-out", "screencap", "-p"))
        if front:
            phone.shell("am", "start", "-n", f"{front}/.Main")
        begun = len(phone.done())
        options = ("--base-url", client.url, "--model", client.model, "--lang", language, "--max-steps", str(STEPS_MAX))
        printed = client.python(phone, "main.py", *options, task)
        assert "Model API checks passed" in printed and "Model error" not in printed, printed
        taken, done = actions(printed, size), traced(phone.done()[begun:])
        assert taken, f"no step:\n{printed}"
        only_that(done, taken, client.packages)
        last = taken[-1][0]
        ended = last is not None and last[0] == "finish"
        solved, steps = solved + (ended and done == [wanted]), steps + len(taken)
        result = printed.rsplit("Result: ", 1)[1].strip()
        print(f"      {'solved' if ended and done == [wanted] else 'missed'}: {task!r}: {done}, {result!r}")
    print(f"      solved {solved} of {len(TASKS)} tasks in {steps} steps")


if __name__ == "__main__":
    CHECKOUT = pathlib.Path(sys.argv.pop()).resolve() if len(sys.argv) == 3 else None
    sys.exit(run(CHECKS, Client, __doc__))
