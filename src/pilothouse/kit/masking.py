"""Secrets in text, found by their shape or by the name before them, and hidden.

Text of tools and models comes through here on the event loop, so every expression is linear: once a beginning of
bounded length has matched, what follows is possessive and nothing is required behind it. An expression that may fail
after a scan of any length would scan again from the next start.
"""

import base64
import binascii
import re
from functools import lru_cache

__all__ = ["MASK", "is_secret_name", "mask_bounded", "mask_text"]

MASK = "***"

# A secret may straddle a cut; of so many characters around it nothing is shown that was not masked with its context.
_MARGIN = 4_096
_LONGEST_NAME = 256
_SHORTEST = 11

_SECRET_NAME = re.compile(
    r"secret|passw(or)?d|passphrase|(^|[^a-z])pwd|authorization|(api|access|account|private|signing)[_-]?key|cookie"
    r"|credential|token$"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[^-]++|-(?!----END ))*+(?:-----END [A-Z0-9 ]{0,40}-----)?"
)
_END_OF_PRIVATE_KEY = re.compile(r"\A[A-Za-z0-9+/=\s\\]*+-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_REST_OF_TOKEN = re.compile(r"[A-Za-z0-9._~+/=%\-]*+")
_URL = re.compile(r"(:\\{0,8}/\\{0,8}/)((?:(?!:\\{0,8}/\\{0,8}/)[^\s\"'<>`])++)")
_END_OF_AUTHORITY = re.compile(r"[/?#]")
# Not inside a word; behind an escape such as \n or %3D a word begins too.
_BOUNDARY = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2}))"
_KNOWN = re.compile(
    _BOUNDARY + r"(?:"
    r"(?:ph_|sk-)[A-Za-z0-9_\-]{8,}+"  # ours; OpenAI, Anthropic, OpenRouter
    r"|eyJ[A-Za-z0-9_\-]{8,}+(?:\.[A-Za-z0-9_\-]*+){0,4}+"  # JWT, also the beginning of one
    r"|(?:[sr]k_(?:live|test)_|whsec_)[A-Za-z0-9+/=_\-]{8,}+"  # Stripe
    r"|AIza[A-Za-z0-9_\-]{16,}+|ya29\.[A-Za-z0-9_.\-]{8,}+|GOCSPX-[A-Za-z0-9_\-]{8,}+"  # Google
    r"|(?:gh[oprsu]_|github_pat_)[A-Za-z0-9_]{16,}+"
    r"|gl(?:pat|ptt|rt|dt|cbt|ft|soat|oas|agent)-[A-Za-z0-9_.=\-]{8,}+"  # GitLab
    r"|(?:xox[a-z](?:\.xox[a-z])?-|xapp-)[A-Za-z0-9\-]{8,}+"  # Slack
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}+"  # AWS
    r"|(?:hf_|npm_|gsk_|xai-|pplx-|r8_)[A-Za-z0-9]{16,}+"  # Hugging Face, npm, Groq, xAI, Perplexity, Replicate
    r"|(?:pypi-AgE|dckr_pat_|SG\.)[A-Za-z0-9_.\-]{16,}+"
    r"|(?:bot)?[0-9]{5,12}:AA[A-Za-z0-9_\-]{16,}+"  # Telegram
    r"|[MNO][A-Za-z0-9_\-]{22,27}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{24,}+"  # Discord
    r"|ATBB[A-Za-z0-9]{16,}+|ATATT[A-Za-z0-9_=\-]{16,}+"  # Bitbucket, Atlassian
    r"|do[por]_v1_[A-Za-z0-9]{16,}+|(?:nvapi|tvly)-[A-Za-z0-9_\-]{16,}+"  # DigitalOcean, NVIDIA, Tavily
    r")"
)
_WEBHOOK = re.compile(
    r"((?:hooks\.slack\.com/(?:services|workflows|triggers)|discord(?:app)?\.com/api/webhooks"
    r"|webhook\.office\.com/webhookb2)/)[A-Za-z0-9/_@\-]++"
)
_SCHEME = re.compile(
    r"(?<![A-Za-z0-9])((?i:bearer)[ \t.]{1,4}|(?i:basic)[ \t]{1,4})([A-Za-z0-9._~+/\-]{4,}+=*+)",
)
_COOKIE = re.compile(
    r"(?i)(cookie\\{0,8}[\"']?[ \t]{0,4}[:=][ \t]{0,4}\\{0,8}[\"']?)[^\s=;,:\"']{1,256}+=[^\r\n\"']*+",
)
# Of any scheme. Digest and its like go on with names and quoted values to the end of the line.
_AUTHORIZATION = re.compile(
    r"(?i)(authorization(?:\\{0,8}[\"'])?[ \t]{0,64}[:=,][ \t]{0,64}b?(?:\\{0,8}[\"'])?)"
    r"(?:(digest|hawk|oauth|signature|aws4-hmac-sha256)[ \t][^\r\n]*+"
    r"|([a-z][a-z0-9_\-]{0,31})[ \t]{1,4}([^\s\"'<>\\]++))"
)
# `name=value`, `name: "value"`, `"name": ["value"]`, `name=value&`, `<name>value`, `("name", "value")`, the value on
# the next line, `"name": "name", "value": "value"`, and the same inside a JSON string.
_NAMED = re.compile(
    r"(?P<name>(?i:pass(?:word|wd|phrase)s?|(?<![a-z])pass|pwd|secrets?(?:[_-]?access)?(?:[_-]?keys?)?"
    r"|(?:api|access|account|auth|encryption|private|session|shared|signing|master|subscription)"
    r"[_-]?(?:access[_-]?)?keys?"
    r"|credentials?|tokens?|authorization|signature|(?<![a-z])sig))"
    r"(?P<gap>\\{0,8}[\"']?(?:"
    r"[ \t]{0,64}(?:=>|[=:](?![=:])|%3[dD])[ \t]{0,64}(?:(?:[|>][+\-]?)?(?:\r?\n|\\{1,8}n)[ \t]{0,64})?+"
    r"|(?<=[\"'])[ \t]{0,64},[ \t]{0,64}(?:\\{0,8}[\"']value\\{0,8}[\"'][ \t]{0,64}:[ \t]{0,64})?+(?=b?\\{0,8}[\"'])"
    r"|>)"
    r"(?i:(?:bearer|basic|digest|negotiate|apikey)[ \t]{1,4})?+[\[({]{0,2}b?)"
    r"(?P<value>(?P<quote>\\{0,8}[\"'])(?:(?!(?P=quote))(?:\\[^\n]|[^\\\n]))*+(?:(?P=quote))?+"
    r"|(?:[^\s&;\"'<>\\]|\\(?![\"'nrt]))++)"
)
# One of these is in every text with a secret; most texts have none, and cost one look. Of text in lower case.
_HINT = re.compile(
    r"pass|pwd|hook|secret|key|credential|token|authorization|sig|bearer|basic|cookie|:\\{0,8}/|-----begin "
    r"|ph_|sk[-_]|eyj|rk_|whsec_|aiza|ya29\.|gocspx-|gh[oprsu]_|github_pat_|gl[a-z]{2,5}-|xox|xapp-|a[ks]ia|hf_|npm_|gsk_"
    r"|xai-|pplx-|r8_|pypi-age|dckr_pat_|sg\.|:aa|atbb|atatt|do[por]_v1_|nvapi-|tvly-|\.[a-z0-9_\-]{6}\."
)
# What prose and code say behind such a name that is no secret.
_NO_SECRETS = frozenset(
    [
        *(
            "none",
            "null",
            "nil",
            "true",
            "false",
            "undefined",
            "unset",
            "empty",
            "missing",
            "required",
            "optional",
            "not",
        ),
        *(
            "invalid",
            "wrong",
            "expired",
            "revoked",
            "unknown",
            "unexpected",
            "malformed",
            "no",
            "is",
            "was",
            "are",
            "it",
        ),
        *(
            "must",
            "can",
            "may",
            "should",
            "has",
            "the",
            "a",
            "an",
            "str",
            "int",
            "bool",
            "bytes",
            "any",
            "await",
            "self",
        ),
    ]
)


def mask_text(text: str) -> str:
    """`text` with keys, tokens, private keys and passwords replaced by `***`.

    Known are our keys, JWTs, those of the usual providers, `Bearer` and `Basic` credentials, passwords in addresses and
    connection strings, PEM private keys, cookies, and values behind names such as `password=`.
    """
    if len(text) < _SHORTEST and text.isalnum():
        return text
    lowered = text.lower()
    if _HINT.search(lowered) is None:
        return text
    if "-----BEGIN " in text:
        text = _PRIVATE_KEY.sub(MASK, text)
    if ":/" in text or ":\\" in text:
        text = _URL.sub(_without_password, text)
    if "hook" in lowered:
        text = _WEBHOOK.sub(rf"\1{MASK}", text)
    text = _KNOWN.sub(MASK, text)
    if "bearer" in lowered or "basic" in lowered:
        text = _SCHEME.sub(_without_credentials, text)
    if "cookie" in lowered:
        text = _COOKIE.sub(rf"\1{MASK}", text)
    if "authorization" in lowered:
        text = _AUTHORIZATION.sub(_without_authorization, text)
    return _NAMED.sub(_without_value, text)


def mask_bounded(text: str, most: int) -> str:
    """As `mask_text`, of a text of any length: `most` characters of its beginning and end, and how many are left out.

    The work is bounded by `most`. A secret that the cut divides is not shown in part.
    """
    if len(text) <= most:
        return mask_text(text)
    head = most * 2 // 3
    tail = most - head
    begin = mask_text(_without_last_word(text[: head + _MARGIN]))[:head]
    return f"{begin} […{len(text) - most} characters left out…] {_masked_end(text[-(tail + _MARGIN) :])[-tail:]}"


def is_secret_name(name: str) -> bool:
    """Whether a value under this name is not to be shown: `api_key`, `accessToken`; not `input_tokens`."""
    return _is_secret_name(name[:_LONGEST_NAME] + name[_LONGEST_NAME:][-_LONGEST_NAME:])


@lru_cache(maxsize=2048)
def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name.lower()) is not None


def _without_password(found: re.Match[str]) -> str:
    slashes, rest = found[1], found[2]
    end = _END_OF_AUTHORITY.search(rest)
    authority = rest if end is None else rest[: end.start()]
    at = authority.rfind("@")
    if at < 0 and _has_no_port(authority):
        at = rest.rfind("@")  # a password with a slash in it
    if at < 0:
        return found[0]
    user, colon, _password = rest[:at].partition(":")
    if colon:
        return f"{slashes}{user}:{MASK}{rest[at:]}"
    is_token = len(user) >= 20 and any(character.isdigit() for character in user)
    return f"{slashes}{MASK}{rest[at:]}" if is_token else found[0]


def _has_no_port(authority: str) -> bool:
    _host, colon, port = authority.partition(":")
    return bool(colon and port) and not port.isdigit() and "[" not in authority


def _without_credentials(found: re.Match[str]) -> str:
    scheme, given = found[1], found[2]
    is_secret = _is_user_and_password if scheme[1] in "aA" else _is_no_word
    return scheme + MASK if is_secret(given) else found[0]


def _is_user_and_password(given: str) -> bool:
    if given.endswith("="):
        return True
    try:
        return b":" in base64.b64decode(given[: len(given) // 4 * 4], altchars=b"-_" if "_" in given else None)
    except (binascii.Error, ValueError):
        return False


def _is_no_word(given: str) -> bool:
    word = given.rstrip(".")
    return not (len(word) <= 20 and word.isalpha() and (word.islower() or word.istitle()))


def _without_authorization(found: re.Match[str]) -> str:
    before, rest_of_line, scheme, given = found.groups()
    if rest_of_line:
        return f"{before}{rest_of_line} {MASK}"
    is_prose = scheme.lower() in _NO_SECRETS or not _is_no_word(given)
    return found[0] if is_prose else f"{before}{scheme} {MASK}"


def _without_value(found: re.Match[str]) -> str:
    name, gap, value = found["name"].lower(), found["gap"], found["value"]
    quote = found["quote"] or ""
    said = value.strip("\\\"'`.,;:)]}")
    if not said or said.lower() in _NO_SECRETS:
        return found[0]
    if name in {"pass", "tokens"} and said.isdigit():  # a count
        return found[0]
    # Behind a colon prose goes on; behind the name of a password it may be one, if it stands on the same line.
    same_line = "\n" not in gap and "\\n" not in gap
    is_password = same_line and name.startswith(("password", "passwd", "passphrase", "pwd", "secret"))
    speaks = not is_password and ("," in gap or (not quote and (":" in gap or not same_line)))
    if speaks and not _is_no_word(said):
        return found[0]
    closing = quote if quote and value.endswith(quote) and len(value) > len(quote) else ""
    return f"{found['name']}{gap}{quote}{MASK}{closing}"


def _masked_end(window: str) -> str:
    """A window on the end of a text, masked, without its first `_MARGIN` characters: they were looked at as context."""
    whole = _END_OF_PRIVATE_KEY.sub(MASK, _without_first_word(window))
    context = whole[: max(0, _MARGIN - (len(window) - len(whole)))]
    return mask_text(whole)[len(mask_text(context)) :]


def _without_last_word(text: str) -> str:
    return text[: _last_gap(text, max(0, len(text) - _MARGIN))]


def _without_first_word(text: str) -> str:
    gaps = [at for at in (text.find(gap, 0, _MARGIN) for gap in " \n\t") if at >= 0]
    if gaps:
        return text[min(gaps) :]
    rest = _REST_OF_TOKEN.match(text, _MARGIN)  # a token as long as that has no shape without its beginning
    return text[rest.end() if rest else _MARGIN :]


def _last_gap(text: str, start: int) -> int:
    gap = max(text.rfind(gap, start) for gap in " \n\t")
    return gap if gap >= 0 else start
