#!/usr/bin/env python3
"""Drives a running endpoint that serves autoglm-nano with the official `openai` package and reports what does not hold.

    openai_client.py http://127.0.0.1:8000/v1 [GOLDENS.json]

Answers are compared with Hugging Face's, of tests/fixtures/autoglm-nano-goldens or of the file that is named. Exits 0 when
every check holds, 1 when one does not, 2 when the endpoint cannot be used at all.
"""

import base64
import concurrent.futures
import copy
import http.client
import json
import pathlib
import re
import select
import sys
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request

import openai

GOLDENS = pathlib.Path(__file__).parent.parent / "fixtures/autoglm-nano-goldens/goldens_plain.json"
# Where the two best logits are nearer than this, another order of additions may choose the other.
GAP_MIN = 0.01
# gateway.requests_max by default.
REQUESTS_MAX = 512
# Frequency penalty by the name of an output; others are of another precision.
PENALTIES = {"freq_0.0": 0.0, "freq_0.2": 0.2, "f32_nopenalty": 0.0, "f32": 0.2}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def readable(golden, folder):
    """The golden with its pictures in place of their paths."""
    golden = {"max_tokens": 96, **copy.deepcopy(golden)}
    for message in golden["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                data = base64.b64encode((folder / golden["image"]).read_bytes()).decode()
                part["image_url"] = {"url": f"data:image/png;base64,{data}"}
    return golden


class Endpoint:
    def __init__(self, url, goldens=GOLDENS):
        goldens = pathlib.Path(goldens)
        self.url = url.rstrip("/")
        self.client = openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=120)
        self.model = self.client.models.list().data[0].id
        self.goldens = [readable(g, goldens.parent) for g in json.loads(goldens.read_text())["conversations"]]

    def cases(self):
        """(golden, its penalty, its expected output) for every conversation."""
        for golden in self.goldens:
            for name, output in golden["outputs"].items():
                if name in PENALTIES and output["min_top2_gap"] >= GAP_MIN:
                    yield golden, PENALTIES[name], output

    def first(self, picture=False):
        """The first conversation, about text or about a picture, and what is answered without a penalty."""
        cases = ((g, o) for g, penalty, o in self.cases() if penalty == 0.0 and bool(g["image"]) == picture)
        return next(cases)

    def ask(self, golden, penalty=0.0, **more):
        request = {"temperature": 0, "max_tokens": golden["max_tokens"], "frequency_penalty": penalty, **more}
        return self.client.chat.completions.create(model=self.model, messages=golden["messages"], **request)

    def post(self, path, body, **headers):
        """Status and JSON of a raw request, for what the package would not send."""
        headers = {"content-type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def finish(output):
    """Without a stop token the reference ended at its bound."""
    return "length" if output["stop_id"] is None else "stop"


def equal(found, expected, what):
    assert found == expected, f"{what}: expected {expected!r}, found {found!r}"


def refused(kind, code, call):
    try:
        call()
    except kind as error:
        body = error.body if isinstance(error.body, dict) else {}
        equal(body.get("code"), code, "code of the error")
        assert body.get("message"), f"an error without a message: {body}"
        assert "type" in body and "param" in body, f"not OpenAI's error object: {body}"
        return body
    raise AssertionError(f"expected {kind.__name__} with code {code}, found an answer")


def refused_among(waiting, wait):
    """Takes out of `waiting` the connections that were answered within `wait` seconds; (status, headers, error) of each
    refusal among them."""
    refusals, deadline = [], time.monotonic() + wait
    while not refusals:
        left = max(deadline - time.monotonic(), 0)
        answered, _, _ = select.select([c.sock for c in waiting], [], [], left)
        for connection in [c for c in waiting if c.sock in answered]:
            response = connection.getresponse()
            waiting.remove(connection)
            if response.status != 200:
                refusals.append((response.status, response.headers, json.load(response)["error"]))
        if left == 0:
            break
    return refusals


@check
def models_are_listed_and_found_by_name(e):
    ids = [m.id for m in e.client.models.list().data]
    assert e.model in ids, ids
    equal(e.client.models.retrieve(e.model).id, e.model, "model by name")
    refused(openai.NotFoundError, "model_not_found", lambda: e.client.models.retrieve("no-such-model"))


@check
def answers_equal_the_reference_with_ids_and_usage(e):
    for golden, penalty, output in e.cases():
        answer = e.ask(golden, penalty, extra_body={"return_token_ids": True})
        choice = answer.choices[0]
        where = f"{golden['id']} penalty {penalty}"
        equal(choice.message.content, output["text"], where)
        equal(choice.finish_reason, finish(output), f"{where} finish_reason")
        equal(answer.prompt_token_ids, golden["prompt_ids"], f"{where} prompt_token_ids")
        equal(choice.token_ids, output["ids"], f"{where} token_ids")
        equal(answer.usage.prompt_tokens, len(golden["prompt_ids"]), f"{where} usage.prompt_tokens")
        equal(answer.usage.completion_tokens, len(output["ids"]), f"{where} usage.completion_tokens")
        equal(answer.usage.total_tokens, len(golden["prompt_ids"]) + len(output["ids"]), f"{where} usage.total_tokens")


@check
def streams_add_up_to_the_same_answer(e):
    for golden, penalty, output in e.cases():
        text, ids, finishes, usage = "", [], [], None
        options = {"stream": True, "stream_options": {"include_usage": True}, "extra_body": {"return_token_ids": True}}
        for chunk in e.ask(golden, penalty, **options):
            equal(chunk.object, "chat.completion.chunk", "object")
            for choice in chunk.choices:
                piece = choice.delta.content or ""
                assert "\ufffd" not in piece, f"a split code point in {piece!r}"
                text += piece
                ids += getattr(choice, "token_ids", None) or []
                finishes += [choice.finish_reason] if choice.finish_reason else []
            usage = chunk.usage or usage
        where = f"{golden['id']} penalty {penalty}"
        equal(text, output["text"], where)
        equal(ids, output["ids"], f"{where} token_ids")
        equal(finishes, [finish(output)], f"{where} finish_reason")
        equal(usage and usage.completion_tokens, len(output["ids"]), f"{where} usage")


@check
def a_stop_string_ends_the_text_before_it(e):
    golden, output = e.first()
    text = output["text"]
    stop = text[len(text) // 2 : len(text) // 2 + 4]
    expected = text[: text.index(stop)]
    answer = e.ask(golden, stop=[stop])
    equal(answer.choices[0].message.content, expected, f"text before {stop!r}")
    equal(answer.choices[0].finish_reason, "stop", "finish_reason")
    streamed = "".join(c.choices[0].delta.content or "" for c in e.ask(golden, stop=stop, stream=True) if c.choices)
    equal(streamed, expected, f"streamed text before {stop!r}")


@check
def max_tokens_ends_with_length(e):
    golden, _ = e.first()
    answer = e.ask(golden, max_tokens=3)
    equal(answer.choices[0].finish_reason, "length", "finish_reason")
    equal(answer.usage.completion_tokens, 3, "usage.completion_tokens")
    answer = e.client.chat.completions.create(
        model=e.model, messages=golden["messages"], temperature=0, max_completion_tokens=2
    )
    equal(answer.usage.completion_tokens, 2, "usage.completion_tokens with max_completion_tokens")


@check
def logprobs_are_sorted_and_greedy_takes_the_best(e):
    golden, output = e.first()
    answer = e.ask(golden, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) in (len(output["ids"]), len(output["ids"]) - 1), len(tokens)
    for token in tokens:
        best = [t.logprob for t in token.top_logprobs]
        equal(len(best), 3, "number of top_logprobs")
        equal(best, sorted(best, reverse=True), "order of top_logprobs")
        assert token.logprob <= 0 and abs(token.logprob - best[0]) < 1e-6, (token.token, token.logprob, best)
        assert token.bytes is not None
    streamed = []
    for chunk in e.ask(golden, logprobs=True, top_logprobs=3, stream=True):
        for choice in chunk.choices:
            streamed += choice.logprobs.content if choice.logprobs else []
    equal([t.logprob for t in streamed], [t.logprob for t in tokens], "streamed logprobs")


@check
def unicode_goes_in_and_out_whole(e):
    prompt = "打开微信 🙂👩‍👩‍👧 naïve ﷽ \u0000 tab\t"
    options = {"temperature": 1.5, "seed": 11, "max_tokens": 120, "stream": True}
    messages = [{"role": "user", "content": prompt}]
    stream = e.client.chat.completions.create(model=e.model, messages=messages, **options)
    pieces = [c.choices[0].delta.content or "" for c in stream if c.choices]
    # Random bytes may really be no code point at the very end or between other characters; what must not happen is a
    # character that is whole in the whole answer and torn between two pieces of the stream.
    whole = e.client.chat.completions.create(model=e.model, messages=messages, **{**options, "stream": False})
    equal("".join(pieces), whole.choices[0].message.content, "streamed and whole answer of one seed")


@check
def a_seed_gives_the_same_answer_again(e):
    golden, _ = e.first()
    ask = lambda seed: e.ask(golden, temperature=1.0, top_p=0.9, seed=seed).choices[0].message.content
    equal(ask(5), ask(5), "two answers of one seed")


@check
def completions_take_text_and_token_ids(e):
    golden, output = e.first()
    for prompt in (golden["prompt"], golden["prompt_ids"]):
        request = {"model": e.model, "prompt": prompt, "temperature": 0, "max_tokens": golden["max_tokens"]}
        answer = e.client.completions.create(**request, logprobs=2, extra_body={"return_token_ids": True})
        choice = answer.choices[0]
        equal(choice.prompt_token_ids, golden["prompt_ids"], "prompt_token_ids")
        equal(choice.text, output["text"], "text")
        equal(choice.token_ids, output["ids"], "token_ids")
        assert choice.logprobs.token_logprobs and max(choice.logprobs.token_logprobs) <= 0
        stream = e.client.completions.create(**request, stream=True)
        equal("".join(c.choices[0].text for c in stream if c.choices), output["text"], "streamed text")


@check
def answers_follow_their_schema_expression_or_choice(e):
    golden, _ = e.first()
    ask = lambda **more: e.client.chat.completions.create(
        model=e.model, messages=golden["messages"], temperature=0, max_tokens=400, **more
    )
    tap = {"type": "integer", "minimum": 0, "maximum": 2400}
    properties = {"app": {"type": "string", "maxLength": 10}, "taps": {"type": "array", "items": tap, "maxItems": 2}}
    schema = {"type": "object", "properties": properties, "required": ["app", "taps"], "additionalProperties": False}
    taps = {"type": "json_schema", "json_schema": {"name": "taps", "strict": True, "schema": schema}}
    answer = ask(response_format=taps).choices[0]
    equal(answer.finish_reason, "stop", "finish_reason")
    found = json.loads(answer.message.content)
    assert set(found) == {"app", "taps"} and len(found["app"]) <= 10 and len(found["taps"]) <= 2, found
    stream = ask(response_format=taps, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    equal(text, answer.message.content, "streamed text")
    number = ask(extra_body={"structured_outputs": {"regex": "n-[0-9]{4}"}}).choices[0].message.content
    assert re.fullmatch("n-[0-9]{4}", number), number
    chosen = ask(extra_body={"guided_choice": ["left", "right"]}).choices[0].message.content
    assert chosen in ("left", "right"), chosen
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strnig"}}}
    body = refused(openai.BadRequestError, "invalid_request", lambda: ask(response_format=bad))
    assert "strnig" in body["message"], body


@check
def choices_are_as_many_as_asked_for_and_streamed_alike(e):
    golden, output = e.first()
    answer = e.ask(golden, n=2)
    equal([c.index for c in answer.choices], [0, 1], "indexes")
    equal([c.message.content for c in answer.choices], [output["text"]] * 2, "greedy choices")
    equal(answer.usage.prompt_tokens, len(golden["prompt_ids"]), "usage.prompt_tokens, the prompt once")
    equal(answer.usage.completion_tokens, 2 * len(output["ids"]), "usage.completion_tokens, both answers")
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    # Hot enough that no two of them are likely to begin alike.
    sampled = {"n": 4, "temperature": 2, "seed": 3, "max_tokens": 24}
    texts = [c.message.content for c in e.ask(golden, **sampled).choices]
    assert len(set(texts)) > 1, f"four sampled choices are all {texts[0]!r}"
    pieces, finishes = [""] * 4, [None] * 4
    for chunk in e.ask(golden, stream=True, **sampled):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    equal(pieces, texts, "streamed choices")
    assert all(finishes), finishes


@check
def a_stop_string_in_one_choice_leaves_the_others_alone(e):
    golden, _ = e.first()
    sampled = {"n": 3, "temperature": 2, "seed": 3, "max_tokens": 24}
    whole = [c.message.content for c in e.ask(golden, **sampled).choices]
    stop = whole[0][2:6]
    cut = [text[: text.index(stop)] if stop in text else text for text in whole]
    equal([c.message.content for c in e.ask(golden, stop=stop, **sampled).choices], cut, f"choices stopped by {stop!r}")


@check
def several_prompts_are_answered_in_their_order(e):
    golden, output = e.first()
    request = {"model": e.model, "temperature": 0, "max_tokens": golden["max_tokens"]}
    single = e.client.completions.create(prompt="打开", **request).choices[0].text
    answer = e.client.completions.create(prompt=[golden["prompt"], "打开"], n=2, **request)
    equal([c.index for c in answer.choices], [0, 1, 2, 3], "indexes")
    equal([c.text for c in answer.choices], [output["text"]] * 2 + [single] * 2, "texts")


@check
def the_prompt_is_echoed_with_its_logprobs(e):
    golden, output = e.first()
    request = {"model": e.model, "temperature": 0, "logprobs": 1}
    answer = e.client.completions.create(prompt=golden["prompt_ids"], max_tokens=8, **request).choices[0]
    ids = golden["prompt_ids"] + output["ids"][:8]
    told = e.client.completions.create(prompt=ids, max_tokens=0, echo=True, **request)
    logprobs = told.choices[0].logprobs
    equal(told.usage.completion_tokens, 0, "usage.completion_tokens")
    equal(len(logprobs.token_logprobs), len(ids), "number of logprobs")
    equal((logprobs.token_logprobs[0], logprobs.top_logprobs[0]), (None, None), "the first token's")
    # What was generated token by token has the very logprobs of the same tokens in a prompt.
    equal(logprobs.token_logprobs[-len(answer.logprobs.token_logprobs) :], answer.logprobs.token_logprobs, "logprobs")
    text = told.choices[0].text
    for offset, token in zip(logprobs.text_offset, logprobs.tokens):
        if not token.startswith("bytes:"):
            equal(text[offset : offset + len(token)], token, f"text at {offset}")
    whole = e.client.completions.create(prompt=golden["prompt"], max_tokens=8, echo=True, **request).choices[0]
    equal(whole.text, golden["prompt"] + answer.text, "prompt and answer")
    extra = {"prompt_logprobs": 1, "return_tokens_as_token_ids": True}
    told = e.client.completions.create(prompt=ids, max_tokens=1, extra_body=extra, **request).choices[0]
    chosen = [by_id[str(id)]["logprob"] for id, by_id in zip(ids[1:], told.prompt_logprobs[1:])]
    equal((told.prompt_logprobs[0], chosen), (None, logprobs.token_logprobs[1:]), "prompt_logprobs")
    assert told.logprobs.tokens[0].startswith("token_id:"), told.logprobs.tokens


@check
def priority_and_deadline_are_read_from_headers(e):
    golden, output = e.first()
    headers = {"x-priority": "high", "x-request-timeout-ms": "60000"}
    equal(e.ask(golden, extra_headers=headers).choices[0].message.content, output["text"], "answer of high priority")
    for name, wrong in (("x-priority", "urgent"), ("x-request-timeout-ms", "0"), ("x-request-timeout-ms", "soon")):
        body = refused(openai.BadRequestError, "invalid_value", lambda: e.ask(golden, extra_headers={name: wrong}))
        equal(body["param"], name, "param")
    try:
        e.ask(golden, max_tokens=500, extra_body={"ignore_eos": True}, extra_headers={"x-request-timeout-ms": "20"})
    except openai.APIStatusError as error:
        assert error.status_code in (503, 504) and error.body["code"], (error.status_code, error.body)
    else:
        raise AssertionError("500 tokens within 20 ms")


@check
def too_many_requests_are_told_when_to_come_back(e):
    golden, output = e.first()
    body = {"model": e.model, "messages": golden["messages"], "stream": True, "max_tokens": 2000, "temperature": 2}
    body = json.dumps({**body, "ignore_eos": True})
    netloc = urllib.parse.urlparse(e.url).netloc
    held, waiting, refusals = [], [], []
    try:
        # More than a gateway takes by default. Which bound is met first depends on the machine: the number of requests or
        # what waits (429), or, where it is slow, that an answer would come too late (503).
        while len(held) < REQUESTS_MAX + 64 and not refusals:
            connection = http.client.HTTPConnection(netloc, timeout=60)
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            held.append(connection)
            waiting.append(connection)
            refusals = refused_among(waiting, wait=0)
        refusals = refusals or refused_among(waiting, wait=30)
    finally:
        for connection in held:
            connection.close()
    assert refusals, f"{len(held)} requests were taken"
    codes = {429: ("too_many_requests", "queue_full"), 503: ("deadline_unmeetable", "replica_overloaded")}
    for status, headers, error in refusals:
        assert error["code"] in codes.get(status, ()), (status, error)
        after, after_ms = (int(headers[name]) for name in ("retry-after", "retry-after-ms"))
        assert 1 <= after <= 600 and (after - 1) * 1000 < after_ms <= after * 1000, (after, after_ms)
    patient = e.client.with_options(max_retries=10)
    answer = patient.chat.completions.create(
        model=e.model, messages=golden["messages"], temperature=0, max_tokens=golden["max_tokens"]
    )
    equal(answer.choices[0].message.content, output["text"], "the answer afterwards, by the package's own retries")


@check
def neighbours_change_nothing(e):
    cases = list(e.cases())[::5]
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        answers = list(pool.map(lambda c: e.ask(c[0], c[1]).choices[0].message.content, cases))
    for (golden, _, output), found in zip(cases, answers):
        equal(found, output["text"], f"{golden['id']} among {len(cases)}")


@check
def bad_requests_are_refused_and_the_server_goes_on(e):
    golden, output = e.first()
    ask = e.client.chat.completions.create
    hello = [{"role": "user", "content": "hello"}]
    refused(openai.NotFoundError, "model_not_found", lambda: ask(model="no-such-model", messages=hello))
    long = [{"role": "user", "content": "打开微信 " * 20_000}]
    refused(openai.BadRequestError, "context_length_exceeded", lambda: ask(model=e.model, messages=long))
    for wrong in ({"temperature": 9}, {"max_tokens": 0}, {"top_p": -1}, {"stop": 7}, {"top_logprobs": 3}):
        refused_code = None
        try:
            ask(model=e.model, messages=hello, **wrong)
        except openai.BadRequestError as error:
            refused_code = error.body["code"]
        assert refused_code, f"{wrong} was taken"
    refused(openai.BadRequestError, "invalid_type", lambda: ask(model=e.model, messages="hello"))
    status, body = e.post("/chat/completions", b'{"model": ')
    equal((status, body["error"]["code"]), (400, "invalid_json"), "malformed JSON")
    status, body = e.post("/chat/completions", b"[]")
    equal(status, 400, "a list")
    status, body = e.post("/nothing/here", b"{}")
    equal((status, body["error"]["code"]), (404, "unknown_url"), "unknown route")
    equal(e.ask(golden).choices[0].message.content, output["text"], "the answer afterwards")


@check
def a_client_that_goes_away_leaves_the_server_well(e):
    golden, output = e.first()
    for _ in range(5):
        stream = e.ask(golden, stream=True)
        next(iter(stream))
        stream.close()
    equal(e.ask(golden).choices[0].message.content, output["text"], "the answer afterwards")


def run(checks, endpoint, usage, args_max=1):
    """Runs the checks against what `endpoint` makes of the URL (and what may follow it) on the command line; the exit code."""
    args = sys.argv[1:]
    if not 1 <= len(args) <= args_max:
        print(usage, file=sys.stderr)
        return 2
    try:
        tried = endpoint(*args)
    except Exception as error:  # whatever it is, nothing can be checked
        print(f"{sys.argv[1]} cannot be used: {error}", file=sys.stderr)
        return 2
    failed = 0
    for function in checks:
        name = function.__name__.replace("_", " ")
        try:
            function(tried)
            print(f"ok    {name}")
        except Exception as error:
            failed += 1
            print(f"FAIL  {name}: {type(error).__name__}: {error}")
            if not isinstance(error, AssertionError):
                traceback.print_exc()
    print(f"{len(checks) - failed} of {len(checks)} checks hold, openai {openai.__version__}, {sys.argv[1]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(CHECKS, Endpoint, __doc__, args_max=2))
