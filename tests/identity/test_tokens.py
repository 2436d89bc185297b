"""JWTs: HS256 with a secret, RS256 and ES256 with a provider's keys over a real socket."""

import asyncio
import base64
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from tests.support.logs import logged_by

from pilothouse.errors import StartupError, Unauthenticated, Unavailable
from pilothouse.identity import jwks
from pilothouse.identity.principal import USER_SCOPES
from pilothouse.identity.tokens import TokenVerifier
from pilothouse.kit.health import Check
from pilothouse.settings import AuthSettings

SECRET = "0123456789abcdef0123456789abcdef"
ISSUER = "https://login.example"
AUDIENCE = "pilothouse"

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def claims(**changes: Any) -> dict[str, Any]:
    made = {"sub": "ada", "iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 300, **changes}
    return {name: value for name, value in made.items() if value is not ...}


def signed(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid} if kid else None)


def raw(header: dict[str, Any], payload: Any, signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def made(monotonic: Callable[[], float] = time.monotonic, **changes: Any) -> TokenVerifier:
    settings = AuthSettings.model_validate({"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, **changes})
    verifier = TokenVerifier.from_settings(settings, monotonic=monotonic)
    assert verifier is not None
    return verifier


@pytest.fixture
def verifier() -> TokenVerifier:
    return made(jwt_secret=SECRET)


# --- claims


@pytest.mark.parametrize("scope", ["chat\ud800", "chat\x00", ["chat", "a\nb"], "chat\u202e"])
async def test_a_scope_that_nothing_could_show_is_refused_with_a_sentence(verifier: TokenVerifier, scope: Any) -> None:
    with pytest.raises(Unauthenticated, match="claim scope holds control or invisible characters"):
        await verifier.authenticate(signed(scope=scope))


async def test_a_good_token_names_tenant_subject_and_scopes(verifier: TokenVerifier) -> None:
    principal = await verifier.authenticate(signed(tenant="acme", scope="chat runs:read"))
    assert (principal.tenant, principal.subject, principal.kind) == ("acme", "ada", "jwt")
    assert principal.scopes == {"chat", "runs:read"}


async def test_without_tenant_and_scope_claims_it_is_an_ordinary_user_of_the_default_tenant(
    verifier: TokenVerifier,
) -> None:
    principal = await verifier.authenticate(signed())
    assert (principal.tenant, principal.scopes) == ("default", USER_SCOPES)


async def test_scopes_may_be_a_list_and_an_empty_text_means_none(verifier: TokenVerifier) -> None:
    assert (await verifier.authenticate(signed(scope=["chat", "admin"]))).scopes == {"chat", "admin"}
    assert (await verifier.authenticate(signed(scope=""))).scopes == set()
    assert (await verifier.authenticate(signed(scope=[]))).scopes == set()


async def test_claims_are_read_under_their_configured_names() -> None:
    verifier = made(jwt_secret=SECRET, jwt_tenant_claim="https://x.example/org", jwt_scopes_claim="permissions")
    token = signed(**{"https://x.example/org": "acme", "permissions": ["chat"], "tenant": "no", "scope": "admin"})
    principal = await verifier.authenticate(token)
    assert (principal.tenant, principal.scopes) == ("acme", {"chat"})


async def test_our_audience_may_be_one_of_several(verifier: TokenVerifier) -> None:
    await verifier.authenticate(signed(aud=["other", AUDIENCE]))


@pytest.mark.parametrize("claim", ["exp", "iss", "aud", "sub"])
@pytest.mark.parametrize("value", [..., None])
async def test_a_token_without_a_required_claim_is_refused(verifier: TokenVerifier, claim: str, value: Any) -> None:
    if (claim, value) == ("iss", None):  # PyJWT refuses to make one
        token = raw({"alg": "HS256"}, claims(iss=None))
        token = _sign_hs256(token)
    else:
        token = signed(**{claim: value})
    with pytest.raises(Unauthenticated, match=f"lacks the claim {claim}"):
        await verifier.authenticate(token)


def _sign_hs256(token: str, secret: str = SECRET) -> str:
    head = token.rpartition(".")[0]
    signature = jwt.get_algorithm_by_name("HS256").sign(head.encode(), secret.encode())
    return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"exp": int(time.time()) - 31}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": "soon"}, "not valid"),
        ({"exp": float("inf")}, "not valid"),
        ({"exp": [1]}, "not valid"),
        ({"nbf": int(time.time()) + 3600}, "not valid yet"),
        ({"iat": int(time.time()) + 3600}, "not valid yet"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": ISSUER + "/"}, "issuer"),
        ({"aud": "other"}, "audience"),
        ({"aud": ["other"]}, "audience"),
        ({"aud": []}, "lacks the claim aud"),
        ({"aud": {"pilothouse": 1}}, "audience"),
        ({"sub": 7}, "not valid"),
        ({"sub": ""}, "claim sub"),
        ({"sub": "a\x00b"}, "claim sub"),
        ({"sub": "a\nb"}, "claim sub"),
        ({"sub": "\ud800"}, "claim sub"),
        ({"sub": "x" * 257}, "claim sub"),
        ({"tenant": "x" * 129}, "claim tenant"),
        ({"tenant": ""}, "claim tenant"),
        ({"tenant": None}, "claim tenant"),
        ({"tenant": ["acme"]}, "claim tenant"),
        ({"tenant": "a\x00"}, "claim tenant"),
        ({"scope": 7}, "claim scope"),
        ({"scope": None}, "claim scope"),
        ({"scope": {"chat": True}}, "claim scope"),
        ({"scope": ["chat", 7]}, "claim scope"),
        ({"scope": "x" * 9000}, "claim scope is too long"),
    ],
)
async def test_a_wrong_claim_is_refused_and_named(
    verifier: TokenVerifier, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Unauthenticated, match=sentence) as caught:
        await verifier.authenticate(signed(**changes))
    assert caught.value.code == "unauthenticated"
    assert "error=" in caught.value.headers["WWW-Authenticate"]


async def test_a_clock_difference_within_the_leeway_is_forgiven(verifier: TokenVerifier) -> None:
    await verifier.authenticate(signed(exp=int(time.time()) - 20, nbf=int(time.time()) + 20))


async def test_names_in_any_script_are_taken(verifier: TokenVerifier) -> None:
    assert (await verifier.authenticate(signed(sub="渡辺"))).subject == "渡辺"


# --- signatures


@pytest.mark.parametrize("junk", ["x", "a.b", "a.b.c", "....", "é.é.é", "e30.e30.", "bnVsbA.e30.AA", "W10.e30.AA"])
async def test_junk_is_refused(verifier: TokenVerifier, junk: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.authenticate(junk)


async def test_a_tampered_token_is_refused(verifier: TokenVerifier) -> None:
    header, payload, signature = signed().split(".")
    other = jwt.encode(claims(sub="bob"), SECRET + "!", "HS256").split(".")[1]
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    for forged in (f"{header}.{other}.{signature}", f"{header}.{payload}.{flipped}", f"{header}.{payload}."):
        with pytest.raises(Unauthenticated):
            await verifier.authenticate(forged)


async def test_a_token_of_another_secret_is_refused(verifier: TokenVerifier) -> None:
    with pytest.raises(Unauthenticated, match="not valid"):
        await verifier.authenticate(signed(SECRET[::-1]))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, 7, ["HS256"], {"a": 1}, "HS384", "HS512"])
async def test_no_other_algorithm_is_taken(verifier: TokenVerifier, algorithm: Any) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.authenticate(raw({"alg": algorithm}, claims()))
    with pytest.raises(Unauthenticated):
        await verifier.authenticate(_sign_hs256(raw({"alg": algorithm}, claims())))
    with pytest.raises(Unauthenticated):
        await verifier.authenticate(_sign_hs256(raw({}, claims())))


async def test_hs512_with_the_right_secret_is_refused(verifier: TokenVerifier) -> None:
    with pytest.raises(Unauthenticated, match="algorithm"):
        await verifier.authenticate(signed(SECRET * 2, "HS512"))


async def test_deeply_nested_content_is_refused(verifier: TokenVerifier) -> None:
    deep = base64.urlsafe_b64encode(b'{"a":' + b"[" * 4000 + b"]" * 4000 + b"}").rstrip(b"=").decode()
    with pytest.raises(Unauthenticated):
        await verifier.authenticate(_sign_hs256(f"{deep}.{deep}."))


async def test_an_rs256_token_is_refused_where_only_a_secret_is_configured(verifier: TokenVerifier) -> None:
    with pytest.raises(Unauthenticated, match="algorithm"):
        await verifier.authenticate(signed(RSA_KEY, "RS256"))


# --- settings


def test_without_jwt_settings_there_is_no_verifier() -> None:
    assert TokenVerifier.from_settings(AuthSettings()) is None


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"jwt_secret": "x" * 31}, "JWT_SECRET has 31 bytes"),
        ({"jwt_secret": ""}, "JWT_SECRET has 0 bytes"),
        ({"jwt_secret": SECRET, "jwt_issuer": None}, "JWT_ISSUER"),
        ({"jwt_secret": SECRET, "jwt_issuer": ""}, "JWT_ISSUER"),
        ({"jwt_secret": SECRET, "jwt_audience": None}, "JWT_AUDIENCE"),
        ({"jwt_jwks_url": "https://x.example", "jwt_audience": None}, "JWT_AUDIENCE"),
        ({"jwt_jwks_url": "ftp://x.example"}, "JWT_JWKS_URL"),
        ({"jwt_jwks_url": ""}, "JWT_JWKS_URL"),
        ({"jwt_jwks_url": "https://"}, "JWT_JWKS_URL"),
        ({"jwt_jwks_url": "https://[x"}, "JWT_JWKS_URL"),
        ({"jwt_jwks_url": "http://login.example/keys"}, "JWT_JWKS_URL"),
        ({"jwt_jwks_url": "http://10.0.0.7/keys"}, "JWT_JWKS_URL"),
        ({"jwt_jwks_url": "http://127.0.0.1.login.example/keys"}, "JWT_JWKS_URL"),
        ({"jwt_jwks_url": "http://127.0.0.1@login.example/keys"}, "JWT_JWKS_URL"),
        ({"jwt_audience": None}, "JWT_ISSUER is set"),
        ({"jwt_issuer": None}, "JWT_AUDIENCE is set"),
    ],
)
def test_incomplete_or_unsafe_settings_stop_the_start_and_name_the_variable(
    changes: dict[str, Any], names: str
) -> None:
    with pytest.raises(StartupError, match=f"PILOTHOUSE_AUTH_{names}"):
        made(**changes)


@pytest.mark.parametrize(
    "url", ["https://login.example/keys", "http://127.0.0.1:8/keys", "http://localhost/keys", "http://[::1]:8/keys"]
)
async def test_keys_are_fetched_over_tls_or_from_this_machine(url: str) -> None:
    await made(jwt_jwks_url=url).close()


# --- a provider's keys


def jwk(key: Any, kid: str | None, **extra: Any) -> dict[str, Any]:
    algorithm = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    made = json.loads(algorithm.to_jwk(key.public_key()))
    made.pop("key_ops", None)
    return {**made, **({"kid": kid} if kid else {}), **extra}


class Provider:
    """An identity provider's key set, over a real socket."""

    def __init__(self) -> None:
        self.keys: list[Any] = [jwk(RSA_KEY, "rsa-1"), jwk(EC_KEY, "ec-1")]
        self.status = 200
        self.body: bytes | None = None
        self.asked = 0
        self.encoding: str | None = None
        self.location = "/elsewhere"
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        await self.gate.wait()
        body = self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
        return web.Response(body=body, status=self.status, headers=self.headers())

    def headers(self) -> dict[str, str]:
        return {"Location": self.location, **({"Content-Encoding": self.encoding} if self.encoding else {})}


class Monotonic:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.router.add_get("/keys", provider.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield provider
    provider.gate.set()
    await runner.cleanup()


@pytest.fixture
def clock() -> Monotonic:
    return Monotonic()


@pytest.fixture
async def remote(provider: Provider, clock: Monotonic) -> AsyncIterator[TokenVerifier]:
    verifier = made(clock, jwt_jwks_url=provider.url)
    yield verifier
    await verifier.close()


async def test_rs256_and_es256_tokens_are_checked_with_the_providers_keys(
    remote: TokenVerifier, provider: Provider
) -> None:
    await remote.start()
    assert (await remote.authenticate(signed(RSA_KEY, "RS256", "rsa-1"))).subject == "ada"
    assert (await remote.authenticate(signed(EC_KEY, "ES256", "ec-1"))).subject == "ada"
    assert provider.asked == 1


async def test_a_token_without_key_id_is_checked_where_one_key_fits(remote: TokenVerifier, provider: Provider) -> None:
    await remote.authenticate(signed(RSA_KEY, "RS256"))
    provider.keys.append(jwk(OTHER_RSA_KEY, "rsa-2"))
    two = made(jwt_jwks_url=provider.url)
    with pytest.raises(Unauthenticated, match="does not list"):
        await two.authenticate(signed(RSA_KEY, "RS256"))
    await two.close()


async def test_a_forged_token_with_a_known_key_id_is_refused(remote: TokenVerifier) -> None:
    with pytest.raises(Unauthenticated, match="not valid"):
        await remote.authenticate(signed(OTHER_RSA_KEY, "RS256", "rsa-1"))


async def test_a_public_key_is_never_taken_for_a_shared_secret(provider: Provider) -> None:
    """The classic confusion: HS256 signed with the bytes of the public key."""
    public = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    token = _sign_hs256(raw({"alg": "HS256", "kid": "rsa-1"}, claims()), public.decode())
    for secret in ({}, {"jwt_secret": SECRET}):
        verifier = made(jwt_jwks_url=provider.url, **secret)
        with pytest.raises(Unauthenticated):
            await verifier.authenticate(token)
        await verifier.close()


async def test_a_key_checks_its_own_algorithm_only(remote: TokenVerifier) -> None:
    with pytest.raises(Unauthenticated):
        await remote.authenticate(signed(EC_KEY, "ES256", "rsa-1"))
    with pytest.raises(Unauthenticated, match="algorithm"):
        await remote.authenticate(signed(RSA_KEY, "RS512", "rsa-1"))
    with pytest.raises(Unauthenticated, match="algorithm"):
        await remote.authenticate(signed(RSA_KEY, "PS256", "rsa-1"))


async def test_secret_and_provider_may_be_configured_together(provider: Provider) -> None:
    both = made(jwt_secret=SECRET, jwt_jwks_url=provider.url)
    await both.authenticate(signed())
    await both.authenticate(signed(RSA_KEY, "RS256", "rsa-1"))
    await both.close()


async def test_shared_encryption_weak_and_broken_keys_of_a_provider_are_left_out(
    remote: TokenVerifier, provider: Provider
) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    provider.keys = [
        {"kty": "oct", "kid": "shared", "k": secret, "alg": "HS256"},
        jwk(OTHER_RSA_KEY, "encryption", use="enc"),
        jwk(weak, "weak"),
        {"kty": "RSA", "kid": "broken", "n": "!"},
        "text",
        None,
        jwk(RSA_KEY, "rsa-1", use="sig", alg="RS256"),
    ]
    await remote.authenticate(signed(RSA_KEY, "RS256", "rsa-1"))
    for token in (
        _sign_hs256(raw({"alg": "HS256", "kid": "shared"}, claims())),
        signed(OTHER_RSA_KEY, "RS256", "encryption"),
    ):
        with pytest.raises(Unauthenticated):
            await remote.authenticate(token)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = signed(weak, "RS256", "weak")
    with pytest.raises(Unauthenticated, match="does not list"):
        await remote.authenticate(token)


async def test_a_new_key_is_learnt_but_unknown_ids_ask_at_most_every_30_seconds(
    remote: TokenVerifier, provider: Provider, clock: Monotonic
) -> None:
    await remote.start()
    for number in range(5):
        clock.seconds += 5.9
        with pytest.raises(Unauthenticated, match="does not list"):
            await remote.authenticate(signed(OTHER_RSA_KEY, "RS256", f"unknown-{number}"))
    assert provider.asked == 1
    provider.keys.append(jwk(OTHER_RSA_KEY, "rsa-2"))
    clock.seconds += 0.5
    await remote.authenticate(signed(OTHER_RSA_KEY, "RS256", "rsa-2"))
    assert provider.asked == 2


async def test_many_tokens_at_once_ask_the_provider_once(remote: TokenVerifier, provider: Provider) -> None:
    provider.gate.clear()
    tokens = [asyncio.create_task(remote.authenticate(signed(RSA_KEY, "RS256", "rsa-1"))) for _ in range(20)]
    while not provider.asked:
        await asyncio.sleep(0)
    provider.gate.set()
    assert {principal.subject for principal in await asyncio.gather(*tokens)} == {"ada"}
    assert provider.asked == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, None),
        (302, None),
        (404, b"{}"),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"keys": 7}'),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [' + b" " * 1_100_000 + b"]}"),
    ],
)
async def test_a_provider_that_is_away_means_503_not_401_and_is_asked_again_soon(
    remote: TokenVerifier, provider: Provider, clock: Monotonic, status: int, body: bytes | None
) -> None:
    provider.status, provider.body = status, body
    await remote.start()
    token = signed(RSA_KEY, "RS256", "rsa-1")
    with pytest.raises(Unavailable) as caught:
        await remote.authenticate(token)
    assert caught.value.headers["Retry-After"] == "5"
    assert provider.asked == 1
    provider.status, provider.body = 200, None
    clock.seconds += 5
    await remote.authenticate(token)


async def test_a_refused_connection_means_503() -> None:
    verifier = made(jwt_jwks_url="http://127.0.0.1:1/keys")
    await verifier.start()
    with pytest.raises(Unavailable):
        await verifier.authenticate(signed(RSA_KEY, "RS256", "rsa-1"))
    await verifier.close()


async def test_known_keys_stay_good_while_the_provider_is_away(
    remote: TokenVerifier, provider: Provider, clock: Monotonic
) -> None:
    await remote.start()
    provider.status = 500
    clock.seconds += 86_400
    token = signed(RSA_KEY, "RS256", "rsa-1")
    await remote.authenticate(token)
    await _asked(provider, 2)
    await remote.authenticate(token)
    with pytest.raises(Unavailable):  # this one we can't tell
        await remote.authenticate(signed(OTHER_RSA_KEY, "RS256", "rsa-2"))


async def test_keys_that_could_not_be_fetched_again_for_a_day_are_trusted_no_more(
    remote: TokenVerifier, provider: Provider, clock: Monotonic
) -> None:
    await remote.start()
    assert remote.check() == Check("identity-provider", ok=True, age_seconds=0.0)
    token = signed(RSA_KEY, "RS256", "rsa-1")
    provider.status = 500
    clock.seconds += 601
    await remote.authenticate(token)
    await _asked(provider, 2)
    async with asyncio.timeout(5):
        while (check := remote.check()) is None or check.ok:
            await asyncio.sleep(0)
    assert "those fetched 601 s ago are used" in (check.reason or "")
    clock.seconds += 86_400 - 600
    with logged_by(jwks) as lines, pytest.raises(Unavailable, match="can't be fetched"):
        await remote.authenticate(token)
    assert "jwks_too_old" in [line["event"] for line in lines]
    check = remote.check()
    assert check is not None
    assert (check.ok, check.vital) == (False, False)
    assert "get a 503" in (check.reason or "")
    provider.status = 200
    clock.seconds += 5
    await remote.authenticate(token)
    assert remote.check() == Check("identity-provider", ok=True, age_seconds=0.0)


async def test_after_a_day_without_callers_the_keys_are_fetched_before_one_is_let_in(
    remote: TokenVerifier, provider: Provider, clock: Monotonic
) -> None:
    await remote.start()
    provider.keys = [jwk(EC_KEY, "ec-1")]
    clock.seconds += 86_401
    with pytest.raises(Unauthenticated, match="does not list"):
        await remote.authenticate(signed(RSA_KEY, "RS256", "rsa-1"))


async def test_a_flood_of_unknown_key_ids_asks_the_provider_once(remote: TokenVerifier, provider: Provider) -> None:
    await remote.start()
    tokens = [signed(OTHER_RSA_KEY, "RS256", f"unknown-{number}") for number in range(20)]
    results = await asyncio.gather(*(remote.authenticate(token) for token in tokens), return_exceptions=True)
    assert {type(result) for result in results} == {Unauthenticated}
    assert provider.asked == 1


async def test_a_compressed_key_set_is_not_inflated(remote: TokenVerifier, provider: Provider) -> None:
    provider.body, provider.encoding = gzip.compress(b" " * 50_000_000 + b"{}"), "gzip"
    await remote.start()
    with pytest.raises(Unavailable):
        await remote.authenticate(signed(RSA_KEY, "RS256", "rsa-1"))


async def test_a_redirect_is_not_followed(remote: TokenVerifier, provider: Provider) -> None:
    provider.status, provider.location = 302, provider.url + "?again"
    await remote.start()
    assert provider.asked == 1
    with pytest.raises(Unavailable):
        await remote.authenticate(signed(RSA_KEY, "RS256", "rsa-1"))
    assert provider.asked == 1


async def test_a_principal_knows_its_token_and_when_that_expires(verifier: TokenVerifier) -> None:
    one = await verifier.authenticate(signed(jti="one"))
    again = await verifier.authenticate(signed(jti="one"))
    other = await verifier.authenticate(signed(jti="two"))
    assert one.credential == again.credential != other.credential
    assert one.expires_at is not None
    assert abs(one.expires_at - (time.time() + 300 + 30) * 1000) < 60_000


async def test_a_key_the_provider_withdrew_is_forgotten_after_the_next_fetch(
    remote: TokenVerifier, provider: Provider, clock: Monotonic
) -> None:
    await remote.start()
    provider.keys = [jwk(EC_KEY, "ec-1")]
    token = signed(RSA_KEY, "RS256", "rsa-1")
    clock.seconds += 599
    await remote.authenticate(token)
    assert provider.asked == 1
    clock.seconds += 1
    await remote.authenticate(token)  # answered from memory, while the fetch runs behind it
    await _asked(provider, 2)
    with pytest.raises(Unauthenticated, match="does not list"):
        await _until_refused(remote, token)


async def _asked(provider: Provider, times: int) -> None:
    async with asyncio.timeout(5):
        while provider.asked < times:
            await asyncio.sleep(0)


async def _until_refused(verifier: TokenVerifier, token: str) -> None:
    async with asyncio.timeout(5):
        while True:
            await verifier.authenticate(token)
            await asyncio.sleep(0)
