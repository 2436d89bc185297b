"""Secrets of the usual kinds are hidden wherever they stand, ordinary text is not, and a cut shows no part of one."""

import base64
import io
import json
import logging

import pytest
import structlog

from pilothouse.kit.masking import MASK, is_secret_name, mask_bounded, mask_text
from pilothouse.observability import configure_logging, get_logger
from pilothouse.settings import LogSettings

# Invented. Put together here, so that scanners of repositories don't take them for real ones.
BODY = "7Qk2ZrT9xLw4Vb8NcY3mHs6JpDf1Ga5E"
BASIC = base64.b64encode(b"ada:hunter2").decode()
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow" + f"{BODY}\n" * 20 + "-----END RSA PRIVATE KEY-----"
SECRETS = {
    "ours": f"ph_0123abcd_{BODY}",
    "OpenAI": f"sk-proj-{BODY}",
    "Anthropic": f"sk-ant-api03-{BODY}",
    "JWT": f"eyJhbGciOiJIUzI1NiJ9.eyJ{BODY}.{BODY}",
    "half a JWT": f"eyJhbGciOiJIUzI1NiJ9{BODY}",
    "Google": f"AIza{BODY}abc",
    "Google OAuth": f"ya29.{BODY}",
    "Google client secret": f"GOCSPX-{BODY[:28]}",
    "GitHub": f"ghp_{BODY}abcd",
    "GitHub OAuth": f"gho_{BODY}abcd",
    "GitHub server": f"ghs_{BODY}abcd",
    "GitHub user": f"ghu_{BODY}abcd",
    "GitHub refresh": f"ghr_{BODY}abcd",
    "GitHub fine-grained": f"github_pat_11ABC_{BODY}",
    "GitLab": f"glpat-{BODY[:20]}",
    "GitLab trigger": f"glptt-{BODY[:20]}",
    "GitLab runner": f"glrt-{BODY[:20]}",
    "GitLab deploy": f"gldt-{BODY[:20]}",
    "GitLab job": f"glcbt-{BODY[:20]}",
    "GitLab feed": f"glft-{BODY[:20]}",
    "GitLab SCIM": f"glsoat-{BODY[:20]}",
    "GitLab OAuth application": f"gloas-{BODY[:20]}",
    "GitLab agent": f"glagent-{BODY[:20]}",
    "Slack bot": f"xoxb-1234567890-{BODY[:24]}",
    "Slack configuration": f"xoxe.xoxp-1-{BODY}",
    "Slack app": f"xapp-1-A012-{BODY}",
    "Slack webhook": f"https://hooks.slack.com/services/T012ABC/B345DEF/{BODY[:24]}",
    "Slack webhook without scheme": f"hooks.slack.com/services/T012ABC/B345DEF/{BODY[:24]}",
    "Slack workflow": f"https://hooks.slack.com/workflows/T012ABC/A345DEF/123/{BODY[:24]}",
    "Slack trigger": f"https://hooks.slack.com/triggers/T012ABC/123/{BODY}",
    "Discord webhook": f"https://discord.com/api/webhooks/123456789/{BODY}",
    "old Discord webhook": f"https://discordapp.com/api/webhooks/123456789/{BODY}",
    "AWS id": f"AKIA{BODY[:16].upper()}",
    "AWS temporary id": f"ASIA{BODY[:16].upper()}",
    "AWS secret": f"aws_secret_access_key = {BODY}/+abcdefg",
    "AWS secret in JSON": f'"SecretAccessKey": "{BODY}/+abcdefg"',
    "Stripe": f"sk_live_{BODY[:24]}",
    "Stripe test": f"sk_test_{BODY[:24]}",
    "Stripe restricted": f"rk_live_{BODY[:24]}",
    "Stripe webhook": f"whsec_{BODY}",
    "Hugging Face": f"hf_{BODY}",
    "npm": f"npm_{BODY}abcd",
    "Groq": f"gsk_{BODY}",
    "xAI": f"xai-{BODY}",
    "Perplexity": f"pplx-{BODY}",
    "Replicate": f"r8_{BODY}",
    "PyPI": f"pypi-AgEIcHlwaS5vcmc{BODY}",
    "Docker": f"dckr_pat_{BODY}",
    "SendGrid": f"SG.{BODY[:22]}.{BODY}",
    "Telegram": f"123456789:AA{BODY}",
    "Telegram in an address": f"https://api.telegram.org/bot123456789:AA{BODY}/sendMessage",
    "bearer": f"Authorization: Bearer {BODY}",
    "bearer alone": f"sent Bearer {BODY}",
    "bearer of a WebSocket": f"bearer.{BODY}",
    "digest": f"Authorization: Digest {BODY}",
    "negotiate": f"Authorization: Negotiate {BODY}",
    "api key scheme": f"Authorization: ApiKey {BODY}",
    "basic": f"Authorization: Basic {BASIC}",
    "basic alone": f"sent 'Basic {BASIC}'",
    "PEM": PEM,
    "PEM in JSON": json.dumps({"private_key": PEM}),
    "PEM without its end": PEM[:200],
    "PGP": PEM.replace("RSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK"),
    "password": "password=hunter2",
    "passwd": "passwd: hunter2",
    "pwd": "Uid=ada;Pwd=hunter2;",
    "passphrase": "passphrase=hunter2",
    "secret": "client_secret='hunter2'",
    "token": "token=hunter2secret",
    "api key": "api_key=hunter2",
    "access key": "access_key=hunter2",
    "auth key": "auth_key=hunter2",
    "encryption key": "encryption_key=hunter2",
    "private key": "private_key=hunter2",
    "session key": "session_key=hunter2",
    "shared key": "shared_key=hunter2",
    "signing key": "signing_key=hunter2",
    "master key": "master_key=hunter2",
    "subscription key": "subscription_key=hunter2",
    "credential": "credential=hunter2",
    "authorization": "authorization=hunter2",
    "signature": "sig=hunter2",
    "Ruby": "password => 'hunter2'",
    "in a query": "GET /v1/x?api_key=hunter2&page=2",
    "escaped query": "next=%2Flogin%3Fpassword%3Dhunter2%26x",
    "a key in an escaped query": f"next=%2Flogin%3Fk%3Dsk-proj-{BODY}%26x",
    "in JSON": '{"password": "hunter2", "user": "ada"}',
    "in JSON in JSON": json.dumps('{"password": "hunter2"}'),
    "in a list": '{"api_key": ["hunter2"]}',
    "a sentence": "password='correct horse hunter2 staple'",
    "address": "postgresql://ada:hunter2@db/app",
    "an @ in it": "postgresql://ada:hunter2@hunter2@db/app",
    "a / in it": "postgresql://ada:hunter2/hunter2@db/app",
    "no user": "redis://:hunter2@cache:6379/0",
    "driver": "postgresql+asyncpg://ada:hunter2@db/app",
    "address in JSON": r'"postgresql:\/\/ada:hunter2@db\/app"',
    "address in JSON in JSON": json.dumps(r'"postgresql:\/\/ada:hunter2@db\/app"'),
    "a token for a user": f"https://{BODY}@git.example.com/x.git",
    "two addresses": "amqp://a:hunter2@one,amqp://b:hunter2@two",
    "libpq": "host=db user=ada password=hunter2 dbname=app",
    "ADO": "Server=db;User Id=ada;Password=hunter2;",
    "Azure": f"DefaultEndpointsProtocol=https;AccountKey={BODY}==",
    "service bus": f"Endpoint=sb://x.example/;SharedAccessKey={BODY}=",
    "XML": "<password>hunter2</password>",
    "cookie": "Cookie: theme=dark; session=hunter2; a=b",
    "behind an escape": rf"first line\nsk-proj-{BODY}",
    "any scheme": f"Authorization: Token {BODY}",
    "any scheme in a dict": f"{{'Authorization': 'token {BODY}'}}",
    "GenieKey": f"Authorization: GenieKey {BODY}",
    "SharedKey": f"Authorization: SharedKey account:{BODY}",
    "Splunk": f"authorization: Splunk {BODY}",
    "NTLM": f"Proxy-Authorization: NTLM {BODY}",
    "Digest": f'Authorization: Digest username="ada", response="{BODY}"',
    "a header's pair": f"[('x-api-key', '{BODY}')]",
    "a header's pair of bytes": f"[(b'authorization', b'Token {BODY}')]",
    "name and value": '{"name":"password","value":"hunter2"}',
    "name and value, spaced": '{"name": "DB_PASSWORD", "value": "hunter2"}',
    "PASS": "DB_PASS=hunter2",
    "pass": "user=ada pass=hunter2",
    "on the next line": "password:\n  hunter2",
    "a block of YAML": "password: >-\n  hunter2",
    "tokens": "tokens=hunter2secret",
    "many spaces": "password            : hunter2",
    "Discord bot": f"MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.{BODY}",
    "Discord header": f"Authorization: Bot MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.{BODY}",
    "Teams webhook": f"https://contoso.webhook.office.com/webhookb2/{BODY}",
    "Bitbucket": f"ATBB{BODY}",
    "Atlassian": f"ATATT3xFfGF0{BODY}",
    "DigitalOcean": f"dop_v1_{BODY}",
    "NVIDIA": f"nvapi-{BODY}",
    "signed address": f"https://bucket.example/x?X-Amz-Signature={BODY}&a=1",
}
ORDINARY = (
    "run_01jd8zq4x5e7c9k2m3n4p5q6r7 started by conv_01jd8zq4x5e7c9k2m3n4p5q6r7",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "commit f105d7c1c0a5b6e7d8f9a0b1c2d3e4f5a6b7c8d9",
    "input_tokens=5 output_tokens=7 cached_tokens=0 max_tokens=4096",
    "input_tokens: 310, output_tokens: 18",
    "Usage(input_tokens=5, output_tokens=7)",
    "the bearer token is missing",
    "Bearer tokens end within five seconds",
    "Basic authentication is not supported; basic auth neither",
    "a secret of good bread is patience, and the password is checked later",
    "password: required",
    "Unexpected token: closing in line 3",
    "api_key: missing",
    "token=None, password=''",
    "GET /v1/conversations?limit=20&state=running took 12 ms",
    "http://127.0.0.1:8420/console/ answers",
    "http://host:80/path@x",
    "ssh://git@example.com/repo.git",
    "postgresql://db.internal:5432/app",
    "https://example.com/a?b=c#d mail ada@example.com",
    "task-force-of-something-long and ask-something-long",
    "/graph_traversal_of_nodes.py",
    "2026-11-21T19:38:59Z 10.0.0.1:54321 -> 10.0.0.2:5432",
    "aspect ratio 16:9, score 123456:78",
    "the keyboard=qwerty, monkey=ape, design=new, signal=SIGTERM",
    'File "/srv/app/tools.py", line 12, in refund',
    "openai:gpt-6-luna answered 429",
    "11111111-2222-3333-4444-555555555555",
    "1042 is packed: Brass compass, Chart table",
    "if token == expected: return",
    "Give one with --token or PILOTHOUSE_TOKEN.",
    "PILOTHOUSE_AUTH_JWT_SECRET is missing: set it.",
    "the cookie: a browser keeps it",
    "authorization: required for this route",
    "Authorization: Bearer tokens end soon",
    "pass: 12, fail: 3",
    "3 tests pass: all of them",
    "Enter the password:\nWelcome",
    "tokens=5, tokens: 12",
    '("token", "name")',
    "compass=north, bypass: none",
    "www.python.org 1.2.3 a.b.c",
)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("around", ["{}", "before {} behind", "({})", 'x="{}"', "\x1b[31m {}\x1b[0m"])
def test_a_secret_is_hidden_whatever_stands_around_it(name, around):
    text = mask_text(around.format(SECRETS[name]))
    assert MASK in text
    for part in (BODY[:12], BODY[-12:], BODY[:12].upper(), "hunter2", BASIC, "MIIEow"):
        assert part not in text


@pytest.mark.parametrize("line", ORDINARY)
def test_an_ordinary_line_is_not_touched(line):
    assert mask_text(line) == line


def test_what_is_around_a_secret_stays():
    assert mask_text("postgresql://u:p@ss@host/db") == "postgresql://u:***@host/db"
    assert mask_text("GET /x?api_key=abc123&page=2") == "GET /x?api_key=***&page=2"
    assert mask_text('{"password": "hunter2", "user": "ada"}') == '{"password": "***", "user": "ada"}'
    assert mask_text("host=db password=hunter2 dbname=app") == "host=db password=*** dbname=app"


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("filler", ["word ", "x"])
def test_a_secret_that_a_cut_divides_is_shown_in_no_part(name, filler):
    secret, most = SECRETS[name], 1_500
    for place in range(900, 1100, 7):  # around the end of the head, which is at 1,000
        text = (filler * 300)[:place] + f" {secret} " + filler * 9_000
        shown = mask_bounded(text, most)
        assert len(shown) < most + 100
        assert "characters left out" in shown
        for part in (BODY[:8], BODY[4:12], BODY[-8:], "hunt", "ter2", BASIC[:8], BASIC[-8:], "MIIEo"):
            assert part not in shown
    for place in range(400, 600, 7):  # around the beginning of the tail, 500 from the end
        text = filler * 9_000 + f" {secret} " + (filler * 300)[:place]
        shown = mask_bounded(text, most)
        for part in (BODY[:8], BODY[4:12], BODY[-8:], "hunt", "ter2", BASIC[:8], BASIC[-8:], "MIIEo"):
            assert part not in shown


def test_the_end_of_a_token_that_is_longer_than_any_window_is_hidden():
    token = f"eyJ{BODY * 250}"
    for text in ("hello " * 200, "hello " * 1000):
        for behind in ("", '","a":1}', " and then"):
            shown = mask_bounded(f"{text}Authorization: Bearer {token}{behind}", 8_000)
            assert BODY[:8] not in shown
            assert shown.endswith(behind)


def test_the_end_of_a_private_key_whose_beginning_was_cut_is_hidden():
    key = "-----BEGIN PRIVATE KEY-----\n" + f"{BODY}{BODY}\n" * 2_000 + "-----END PRIVATE KEY-----\nand then"
    shown = mask_bounded("x " * 9_000 + key, 3_000)
    assert BODY[:8] not in shown
    assert shown.endswith("and then")


@pytest.fixture
def logs():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    out = io.StringIO()

    def configure(style="json"):
        configure_logging(LogSettings(format=style), "production", stream=out)
        return out

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize("style", ["json", "pretty"])
@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_reaches_a_log_by_value_key_trace_or_library(logs, style, name):
    out, secret = logs(style), SECRETS[name]
    log = get_logger("a")
    log.info(secret, value=secret, deep=[{"x": (secret,)}], data=secret.encode(), headers=[("a", secret)])
    log.info("keyed", value={secret: 1})
    logging.getLogger("lib").warning("said %s", secret)
    try:
        try:
            raise ValueError(secret)
        except ValueError as error:
            error.add_note(secret)
            raise ExceptionGroup("several", [ValueError(secret), RuntimeError(secret)]) from error
    except ExceptionGroup:
        log.exception("failed")
        logging.getLogger("lib").exception("failed")
    text = out.getvalue()
    assert "several" in text
    for part in (BODY[:12], "hunter2", BASIC, "MIIEow"):
        assert part not in text.replace("\\n", "\n")


def test_values_of_headers_and_under_secret_names_are_hidden(logs):
    out = logs()
    get_logger("a").info(
        "x", headers=[("Authorization", "word"), (b"cookie", b"word")], passphrase="word", db_pwd="word"
    )
    assert "word" not in out.getvalue()
    assert is_secret_name("x" * 1_000_000 + "_password")
    assert not is_secret_name("x" * 1_000_000)


def test_a_line_is_bounded_whatever_is_in_it_and_says_how_much_it_left_out(logs):
    out = logs()
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    get_logger("a").info(
        "x" * 1_000_000,
        text="y" * 1_000_000,
        many=list(range(1_000_000)),
        table={str(number): "z" * 1000 for number in range(100_000)},
        deep=deep,
        data=b"\xff" * 1_000_000,
        number=10**100_000,
        name={"n" * 1_000_000: 1},
    )
    (line,) = out.getvalue().splitlines()
    assert len(line) < 150_000
    shown = json.loads(line)
    assert "992000 characters left out" in shown["event"]
    assert shown["many"][-1] == "… 999900 more"


def test_a_line_of_many_long_values_is_bounded_as_a_whole(logs):
    out = logs()
    get_logger("a").info("x", **{f"field{number}": "y" * 8_000 for number in range(100)})
    assert len(out.getvalue()) < 100_000
    assert "characters left out" in json.loads(out.getvalue())["field99"]


def recursion(depth):
    return depth and recursion(depth - 1)


def chain(length):
    error: Exception | None = None
    for number in range(length):
        try:
            raise ValueError(f"link {number} of the chain") from error
        except ValueError as raised:
            error = raised
    return error


def group(depth, width):
    members = [group(depth - 1, width) if depth else ValueError("leaf") for _ in range(width)]
    return ExceptionGroup("branch", members)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def test_a_trace_is_bounded_whatever_was_raised(logs):
    out = logs()
    log = get_logger("a")
    try:
        recursion(100_000)
    except RecursionError:
        log.exception("deep")
    log.error("chain", exc_info=chain(2_000))
    log.error("group", exc_info=group(3, 12))
    log.error("text", exc_info=ValueError("x" * 5_000_000))
    log.error("mute", exc_info=Mute())
    cyclic = ValueError("cyclic")
    cyclic.__context__ = other = ValueError("other")
    other.__context__ = cyclic
    log.error("cycle", exc_info=cyclic)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    traces = {line["event"]: line["exception"] for line in lines}
    assert all(len(trace) < 30_000 for trace in traces.values())
    assert "RecursionError" in traces["deep"]
    assert "frames left out" in traces["deep"]
    assert "link 0 of the chain" in traces["chain"]  # the first cause
    assert "link 1999 of the chain" in traces["chain"]  # what was raised
    assert "1992 exceptions of the chain left out" in traces["chain"]
    assert "leaf" in traces["group"]
    assert "left out" in traces["group"]
    assert "characters left out" in traces["text"]
    assert "Mute" in traces["mute"]
    assert traces["cycle"].count("cyclic") == 1


def test_a_message_of_an_exception_forges_no_line(logs):
    out = logs("pretty")
    try:
        raise ValueError("first\n2026-01-01T00:00:00Z [info     ] forged")
    except ValueError:
        get_logger("a").exception("failed\n2026-01-01T00:00:00Z [info     ] forged too", key="a\nb")
    assert not any(line.startswith("2026-01-01T00") for line in out.getvalue().splitlines())
