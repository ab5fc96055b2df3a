"""Verification of the tokens of the app and of an OpenID provider, and of forged ones."""

import base64
import json
import string
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from api.auth.token_verifiers import LEEWAY_SECONDS, MAX_CHARACTERS, TokenVerifier
from api.errors import ApiError
from api.settings import SettingsError
from tests.support import accounts
from tests.support.accounts import (
    ABSENT,
    AUDIENCE,
    EC,
    ISSUER,
    LIBRARIES,
    LIFETIME_SECONDS,
    PROVIDER,
    RSA,
    SECRET,
    UNKNOWN_KEY,
    base64url,
    compact,
    jwk,
    jwks,
    openid_claims,
    openid_token,
    own_claims,
    own_token,
    sign_token,
)

PROVIDER_KEYS = {"RS256": (RSA, "rsa"), "ES256": (EC, "ec")}


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> TokenVerifier:
    return TokenVerifier.from_settings(accounts.settings(tmp_path_factory.mktemp("tokens")))


def rejection(verifier: TokenVerifier, text: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        verifier.verify(text)
    return caught.value


# --- valid tokens ---


@pytest.mark.parametrize("library", LIBRARIES)
def test_own_tokens_of_every_signing_library_are_accepted(verifier: TokenVerifier, library: str) -> None:
    claims = own_claims(roles=["USER", "ADMIN"])
    token = verifier.verify(LIBRARIES[library](claims, SECRET, "HS512"))
    assert (token.user_id, token.subject, token.roles) == ("42", "ada@app.example", ("USER", "ADMIN"))
    assert (token.issuer, token.renewable) == (ISSUER, True)
    assert (token.issued_at.timestamp(), token.expires_at.timestamp()) == (claims["iat"], claims["exp"])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("algorithm", PROVIDER_KEYS)
def test_provider_tokens_of_every_signing_library_are_accepted(
    verifier: TokenVerifier, library: str, algorithm: str
) -> None:
    key, kid = PROVIDER_KEYS[algorithm]
    token = verifier.verify(LIBRARIES[library](openid_claims(), key, algorithm, kid=kid))
    assert (token.user_id, token.subject, token.roles) == ("q8Xn0u", "q8Xn0u", ())
    assert (token.issuer, token.renewable) == (PROVIDER, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"userId": 42},
        {"userId": "Zoë 🙂"},
        {"roles": []},
        {"roles": "USER"},
        {"roles": "USER", "userId": 42},
        {"nbf": 1_700_000_000},
        {"iat": 1_700_000_000.5},
        {"auth_time": 1_700_000_000},
        {"exp": 253402214400},
        {"email": "ada@app.example", "more": {"nested": [1, 2]}},
    ],
    ids=str,
)
def test_valid_claims_of_own_tokens_are_accepted(verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    assert verifier.verify(own_token(**changes)).user_id == str(changes.get("userId", "42"))


def test_a_small_clock_skew_is_accepted(verifier: TokenVerifier) -> None:
    now, skew = time.time(), LEEWAY_SECONDS / 2
    for times in ({"iat": now + skew}, {"nbf": now + skew}, {"iat": now - 3600, "exp": now - skew}):
        assert verifier.verify(own_token(**times)) and verifier.verify(openid_token(**times))


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        ({"roles": ["ADMIN"]}, ("ADMIN",)),
        ({"roles": "ADMIN"}, ()),
        ({"roles": ["ADMIN", 7]}, ()),
        ({"roles": {"ADMIN": True}}, ()),
        ({"aud": [AUDIENCE]}, ()),
        ({"aud": ["another-app", AUDIENCE]}, ()),
    ],
    ids=str,
)
def test_valid_claims_of_provider_tokens_are_accepted(
    verifier: TokenVerifier, changes: dict[str, Any], roles: tuple[str, ...]
) -> None:
    assert verifier.verify(openid_token(**changes)).roles == roles


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
def test_valid_header_types_are_accepted(verifier: TokenVerifier, typ: str | None) -> None:
    assert verifier.verify(sign_token(openid_claims(), RSA, "RS256", kid="rsa", typ=typ))


def test_several_audiences_can_be_configured(tmp_path: Path) -> None:
    verifier = TokenVerifier.from_settings(accounts.settings(tmp_path, oidc_audience=("ios", "web")))
    assert verifier.verify(openid_token(aud="web")) and verifier.verify(openid_token(aud="ios"))
    assert rejection(verifier, openid_token(aud="ios,web")).code == "invalid_token"


def test_a_user_has_one_id_for_all_their_tokens_and_different_users_have_different_ids(verifier: TokenVerifier) -> None:
    first, again = (
        verifier.verify(own_token()),
        verifier.verify(own_token(sub="ada@other.example", userId=42, exp=time.time() + 60)),
    )
    assert first.user == again.user
    others = [
        verifier.verify(own_token(userId="43")),
        verifier.verify(openid_token()),
        verifier.verify(openid_token(sub="42")),
    ]
    assert len({first.user, *(other.user for other in others)}) == 4
    assert len(first.user) == 64 and first.user != "42"


def test_reprs_do_not_contain_a_tokens_claims(verifier: TokenVerifier, tmp_path: Path) -> None:
    assert "secret-claim" not in repr(verifier.verify(own_token(more="secret-claim")))
    assert repr(SECRET) not in repr(accounts.settings(tmp_path))


# --- forged tokens: each is a valid one with one change ---

NOW = int(time.time())
# Their ids contain no times: every process of a parallel test run must collect the same ids.
MALFORMED_TIMES: dict[str, Any] = {
    "text": "x",
    "time as text": str(NOW + 3600),
    "null": None,
    "list": [NOW],
    "object": {},
    "NaN": float("nan"),
    "infinity": float("inf"),
    "too large": 10**30,
}
INVALID_PAST_TIMES: dict[str, Any] = {"true": True, "negative": -1}


def cases(claim: str, *values: Any, **named: Any) -> dict[str, dict[str, Any]]:
    """Return changes of one claim by test id, which is made of the value or its name."""
    return {
        f"{claim}: {name[:60]}": {claim: value} for name, value in [*((repr(v), v) for v in values), *named.items()]
    }


CLAIMS: dict[str, dict[str, Any]] = {
    **{f"{name}: absent": {name: ABSENT} for name in ("sub", "userId", "roles", "iss", "iat", "exp")},
    **{f"{name}: null": {name: None} for name in ("sub", "userId", "roles", "iss", "iat", "exp")},
    **cases("userId", "", True, 4.2, ["42"], {"id": 42}, "x" * 256, 10**256, "a\x00b", "a\nb", "\ud800"),
    **cases("sub", "", 42, ["ada"], "x" * 256, "\ud800"),
    **cases("roles", "", "\n", {"ADMIN": 1}, [7], [["ADMIN"]], [None], [""], ["\ud800"], True),
    **cases("iss", f"{ISSUER}/", ISSUER.upper(), "https://evil.example", "", [ISSUER], 7, {"a": ISSUER}),
    **cases("exp", **MALFORMED_TIMES),
    **cases("iat", **MALFORMED_TIMES, **INVALID_PAST_TIMES),
    **cases("nbf", **MALFORMED_TIMES, **INVALID_PAST_TIMES),
    **cases("auth_time", **MALFORMED_TIMES, **INVALID_PAST_TIMES),
    "iat: in the future": {"iat": NOW + 10 * LIFETIME_SECONDS, "exp": NOW + 11 * LIFETIME_SECONDS},
    "nbf: in the future": {"nbf": NOW + LIFETIME_SECONDS / 2},
    "aud: another service": {"aud": "another-service"},
    "aud: list of another service": {"aud": ["another-service"]},
    "token too long": {"more": "x" * 6000},
}


@pytest.mark.parametrize("changes", CLAIMS.values(), ids=CLAIMS)
def test_invalid_claims_of_own_tokens_are_rejected(verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    assert rejection(verifier, own_token(**changes)).code == "invalid_token"


def test_a_token_without_a_lifetime_is_rejected(verifier: TokenVerifier) -> None:
    now = int(time.time())
    assert rejection(verifier, own_token(iat=now, exp=now)).code == "invalid_token"


OPENID_CLAIMS: dict[str, dict[str, Any]] = {
    **{f"{name}: absent": {name: ABSENT} for name in ("sub", "iss", "aud", "iat", "exp")},
    **cases("sub", "", 42, None, "x" * 256, "\ud800"),
    **cases("aud", "another-app", f"{AUDIENCE} ", AUDIENCE.upper(), "", [], ["a"], [7, AUDIENCE], {}, None),
    **cases("iss", f"{PROVIDER}-2", f"{PROVIDER}/", ISSUER, "", [PROVIDER], None),
    **cases("exp", **MALFORMED_TIMES),
    **cases("iat", **MALFORMED_TIMES, **INVALID_PAST_TIMES),
    "iat: in the future": {"iat": NOW + 10 * LIFETIME_SECONDS, "exp": NOW + 11 * LIFETIME_SECONDS},
    "nbf: in the future": {"nbf": NOW + LIFETIME_SECONDS / 2},
}


@pytest.mark.parametrize("changes", OPENID_CLAIMS.values(), ids=OPENID_CLAIMS)
@pytest.mark.parametrize("algorithm", PROVIDER_KEYS)
def test_invalid_claims_of_provider_tokens_are_rejected(
    verifier: TokenVerifier, algorithm: str, changes: dict[str, Any]
) -> None:
    key, kid = PROVIDER_KEYS[algorithm]
    assert verifier.verify(openid_token(key, algorithm, kid))
    assert rejection(verifier, openid_token(key, algorithm, kid, **changes)).code == "invalid_token"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["own", "openid"])
def test_an_expired_token_is_reported_as_expired(verifier: TokenVerifier, library: str, kind: str) -> None:
    times = {"iat": NOW - 7200, "exp": NOW - LEEWAY_SECONDS - 5}
    make = {"own": (own_claims(**times), SECRET, "HS512"), "openid": (openid_claims(**times), RSA, "RS256")}
    error = rejection(verifier, LIBRARIES[library](*make[kind], kid="rsa"))
    assert (error.code, error.headers["WWW-Authenticate"]) == (
        "token_expired",
        'Bearer realm="moodreel", error="invalid_token"',
    )


def test_expiry_is_reported_only_for_a_valid_signature(verifier: TokenVerifier) -> None:
    forged = sign_token(own_claims(iat=NOW - 7200, exp=NOW - 3600), b"x" * 64, "HS512")
    assert rejection(verifier, forged).code == "invalid_token"


def own_token_with(**header: Any) -> str:
    return sign_token(own_claims(), SECRET, "HS512", **header)


def openid_token_with(**header: Any) -> str:
    return sign_token(openid_claims(), RSA, "RS256", **{"kid": "rsa", **header})


def with_signature(text: str, signature: str) -> str:
    return f"{text.rpartition('.')[0]}.{signature}"


def signed_with_public_key(algorithm: str, secret: bytes, kid: str) -> str:
    return sign_token(openid_claims(), secret, algorithm, kid=kid)


def der(key: Any) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def unknown_jwk() -> dict[str, Any]:
    return jwk(UNKNOWN_KEY, "rsa")


def with_user(claims: dict[str, Any], user: str) -> dict[str, Any]:
    return {**claims, "userId": user, "sub": user}


FORGERIES: dict[str, tuple[Any, type[Exception]]] = {
    # no signature
    "alg none, no signature": (lambda: compact({"alg": "none"}, own_claims(), lambda _: b""), jwt.DecodeError),
    "alg none, some signature": (
        lambda: compact({"alg": "none"}, own_claims(), lambda _: b"x"),
        jwt.InvalidAlgorithmError,
    ),
    "alg nOnE": (lambda: compact({"alg": "nOnE"}, own_claims(), lambda _: b"x"), jwt.InvalidAlgorithmError),
    "alg none of a provider": (
        lambda: compact({"alg": "none", "kid": "rsa"}, openid_claims(), lambda _: b"x"),
        jwt.InvalidAlgorithmError,
    ),
    "no alg": (lambda: own_token_with(alg=None), jwt.InvalidAlgorithmError),
    "alg a list": (lambda: own_token_with(alg=["HS512"]), jwt.InvalidAlgorithmError),
    "alg a number": (lambda: own_token_with(alg=512), jwt.InvalidAlgorithmError),
    "alg in lower case": (lambda: own_token_with(alg="hs512"), jwt.InvalidAlgorithmError),
    # another algorithm than the configured one
    "HS256 with the right secret": (lambda: sign_token(own_claims(), SECRET, "HS256"), jwt.InvalidAlgorithmError),
    "HS384 with the right secret": (lambda: sign_token(own_claims(), SECRET, "HS384"), jwt.InvalidAlgorithmError),
    "RS512 with the right key": (lambda: openid_token(algorithm="RS512"), jwt.InvalidAlgorithmError),
    "RS384 with the right key": (lambda: openid_token(algorithm="RS384"), jwt.InvalidAlgorithmError),
    "PS256 with the right key": (lambda: openid_token(algorithm="PS256"), jwt.InvalidAlgorithmError),
    # the key of the other issuer
    "provider's claims signed with our secret": (
        lambda: sign_token(openid_claims(), SECRET, "HS512", kid="rsa"),
        jwt.InvalidAlgorithmError,
    ),
    "our claims signed with the provider's key": (
        lambda: sign_token(own_claims(), RSA, "RS256", kid="rsa"),
        jwt.InvalidAlgorithmError,
    ),
    **{
        f"{algorithm} with the {name} public key as secret ({form})": (
            lambda algorithm=algorithm, make=make, key=key, name=name: signed_with_public_key(
                algorithm, make(key), name
            ),
            jwt.InvalidAlgorithmError,
        )
        for algorithm in ("HS256", "HS384", "HS512")
        for name, key in (("rsa", RSA), ("ec", EC))
        for form, make in (
            ("PEM", accounts.public_pem),
            ("DER", der),
            ("JWK", lambda key: json.dumps(jwk(key, "rsa")).encode()),
        )
    },
    "our claims, HS512 with the public key as secret": (
        lambda: sign_token(own_claims(), accounts.public_pem(RSA), "HS512"),
        jwt.InvalidSignatureError,
    ),
    "the EC key's kid on an RS256 token": (lambda: openid_token(kid="ec"), jwt.InvalidKeyError),
    "the RSA key's kid on an ES256 token": (lambda: openid_token(EC, "ES256", "rsa"), jwt.InvalidKeyError),
    # an unknown key
    "another secret": (lambda: sign_token(own_claims(), b"x" * 64, "HS512"), jwt.InvalidSignatureError),
    "an empty secret": (lambda: sign_token(own_claims(), b"", "HS512"), jwt.InvalidSignatureError),
    "the secret's base64 as secret": (
        lambda: sign_token(own_claims(), base64.b64encode(SECRET), "HS512"),
        jwt.InvalidSignatureError,
    ),
    "unknown key with a known kid": (lambda: openid_token(UNKNOWN_KEY), jwt.InvalidSignatureError),
    "unknown key in jwk": (
        lambda: sign_token(openid_claims(), UNKNOWN_KEY, "RS256", kid="rsa", jwk=unknown_jwk()),
        jwt.InvalidSignatureError,
    ),
    "unknown key in jwk, no kid": (
        lambda: sign_token(openid_claims(), UNKNOWN_KEY, "RS256", jwk=unknown_jwk()),
        jwt.InvalidSignatureError,
    ),
    "unknown secret in jwk": (
        lambda: sign_token(own_claims(), b"x" * 64, "HS512", jwk={"kty": "oct", "k": base64url(b"x" * 64)}),
        jwt.InvalidSignatureError,
    ),
    "jku": (
        lambda: sign_token(openid_claims(), UNKNOWN_KEY, "RS256", kid="rsa", jku="https://evil.example/jwks.json"),
        jwt.InvalidSignatureError,
    ),
    "x5u": (
        lambda: sign_token(openid_claims(), UNKNOWN_KEY, "RS256", kid="rsa", x5u="https://evil.example/cert.pem"),
        jwt.InvalidSignatureError,
    ),
    # kid
    "unknown kid": (lambda: openid_token(kid="new"), jwt.InvalidKeyError),
    "empty kid": (lambda: openid_token(kid=""), jwt.InvalidKeyError),
    "a path as kid": (lambda: openid_token(kid="../../../../dev/null"), jwt.InvalidKeyError),
    "an empty file as kid and secret": (
        lambda: sign_token(openid_claims(), b"", "HS256", kid="/dev/null"),
        jwt.InvalidAlgorithmError,
    ),
    "SQL as kid": (lambda: openid_token(kid="x' union select 'rsa' --"), jwt.InvalidKeyError),
    "a number as kid": (lambda: openid_token_with(kid=7), jwt.InvalidTokenError),
    "a list as kid": (lambda: openid_token_with(kid=["rsa"]), jwt.InvalidTokenError),
    "a number as our own kid": (lambda: own_token_with(kid=7), jwt.InvalidTokenError),
    # unsupported extensions
    "crit": (lambda: own_token_with(crit=["exp"], exp=1), jwt.InvalidTokenError),
    "crit of a provider": (
        lambda: openid_token_with(crit=["http://openbanking/iat"], **{"http://openbanking/iat": 1}),
        jwt.InvalidTokenError,
    ),
    "crit empty": (lambda: own_token_with(crit=[]), jwt.InvalidTokenError),
    "crit no list": (lambda: own_token_with(crit="exp", exp=1), jwt.InvalidTokenError),
    "b64 false": (lambda: own_token_with(b64=False, crit=["b64"]), jwt.DecodeError),
    "a logout token": (lambda: openid_token_with(typ="logout+jwt"), jwt.InvalidTokenError),
    "a DPoP proof": (lambda: own_token_with(typ="dpop+jwt"), jwt.InvalidTokenError),
    "typ a list": (lambda: own_token_with(typ=["JWT"]), jwt.InvalidTokenError),
    # changed after signing
    "another user": (
        lambda: _with_claims(own_token(), with_user(own_claims(), "1")),
        jwt.InvalidSignatureError,
    ),
    "another role": (lambda: _with_claims(own_token(), own_claims(roles=["ADMIN"])), jwt.InvalidSignatureError),
    "a provider's user": (lambda: _with_claims(openid_token(), openid_claims(sub="1")), jwt.InvalidSignatureError),
    "signature of zeros": (lambda: with_signature(own_token(), base64url(bytes(64))), jwt.InvalidSignatureError),
    "truncated signature": (lambda: own_token()[:-4], jwt.DecodeError),
    "extended signature": (lambda: own_token() + "AAAA", jwt.DecodeError),
    "ES256 signature of zeros": (
        lambda: with_signature(openid_token(EC, "ES256", "ec"), base64url(bytes(64))),
        jwt.InvalidSignatureError,
    ),
    "ES256 signature as DER": (
        lambda: with_signature(openid_token(EC, "ES256", "ec"), base64url(bytes(71))),
        jwt.InvalidSignatureError,
    ),
    "RS256 signature of zeros": (
        lambda: with_signature(openid_token(), base64url(bytes(256))),
        jwt.InvalidSignatureError,
    ),
    # not a JSON object
    "claims are a list": (lambda: sign_token(b"[]", SECRET, "HS512"), jwt.DecodeError),
    "claims are null": (lambda: sign_token(b"null", SECRET, "HS512"), jwt.DecodeError),
    "claims are not JSON": (lambda: sign_token(b"{'sub': 1}", SECRET, "HS512"), jwt.DecodeError),
    "claims are not UTF-8": (lambda: sign_token(b'{"sub": "\xff"}', SECRET, "HS512"), jwt.DecodeError),
    "claims nested deeply": (
        lambda: sign_token(
            json.dumps(own_claims())[:-1].encode() + b', "x": ' + b"[" * 2500 + b"]" * 2500 + b"}", SECRET, "HS512"
        ),
        jwt.DecodeError,
    ),
    "a number of many digits": (
        lambda: sign_token(json.dumps(own_claims())[:-1].encode() + b', "x": ' + b"9" * 5000 + b"}", SECRET, "HS512"),
        jwt.DecodeError,
    ),
    "header nested deeply": (lambda: f"{base64url(b'[' * 3000)}.{own_token().partition('.')[2]}", jwt.DecodeError),
    "header is a list": (lambda: compact([], own_claims(), lambda _: b"x"), jwt.DecodeError),
    "header is not JSON": (lambda: compact(b"alg", own_claims(), lambda _: b"x"), jwt.DecodeError),
    # not a token
    "empty": (lambda: "", jwt.DecodeError),
    "a dot": (lambda: ".", jwt.DecodeError),
    "two dots": (lambda: "..", jwt.DecodeError),
    "one part": (lambda: "token", jwt.DecodeError),
    "two parts": (lambda: own_token().rpartition(".")[0], jwt.DecodeError),
    "four parts": (lambda: own_token() + ".AAAA", jwt.DecodeError),
    "five parts as in JWE": (lambda: own_token() + ".AAAA.AAAA", jwt.DecodeError),
    "two tokens with a comma": (lambda: f"{own_token()},{own_token()}", jwt.DecodeError),
    "two tokens with a space": (lambda: f"{own_token()} {own_token()}", jwt.DecodeError),
    "in quotes": (lambda: f'"{own_token()}"', jwt.DecodeError),
    "a line break": (lambda: own_token() + "\n", jwt.DecodeError),
    "base64 padding": (lambda: own_token() + "==", jwt.DecodeError),
    "standard base64": (
        lambda: with_signature(own_token(), base64.b64encode(b"\xff\xfb" * 32).decode()),
        jwt.DecodeError,
    ),
    "Cyrillic letter": (lambda: "е" + own_token()[1:], jwt.DecodeError),
    "Arabic digit": (lambda: own_token() + "٣", jwt.DecodeError),
    "one megabyte": (lambda: own_token() + "A" * 1_000_000, jwt.DecodeError),
    "one million dots": (lambda: "." * 1_000_000, jwt.DecodeError),
}


def _with_claims(text: str, claims: dict[str, Any]) -> str:
    header, _, signature = text.split(".")
    return f"{header}.{base64url(json.dumps(claims).encode())}.{signature}"


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_token_is_rejected_without_the_reason(verifier: TokenVerifier, name: str) -> None:
    forge, reason = FORGERIES[name]
    error = rejection(verifier, forge())
    assert isinstance(error.__cause__, reason), repr(error.__cause__)
    assert (error.code, error.detail) == (
        "invalid_token",
        "The token is not valid for this service. Sign in again and send the new one.",
    )
    assert error.headers == {"WWW-Authenticate": 'Bearer realm="moodreel", error="invalid_token"'}


def test_the_helpers_that_forge_tokens_can_make_valid_ones(verifier: TokenVerifier) -> None:
    """Otherwise the table above could pass for another reason."""
    assert verifier.verify(own_token()) and verifier.verify(own_token_with(kid="any", jku="https://app.example"))
    assert verifier.verify(openid_token()) and verifier.verify(openid_token(EC, "ES256", "ec"))
    assert verifier.verify(with_signature(own_token(), own_token().rpartition(".")[2]))
    assert verifier.verify(sign_token(json.dumps(own_claims())[:-1].encode() + b', "x": [[[]]]}', SECRET, "HS512"))


def test_the_token_length_limit_is_exact(verifier: TokenVerifier) -> None:
    lengths = {}
    for padding in range(5500, 6000):
        text = own_token(more="x" * padding)
        lengths.setdefault(len(text) > MAX_CHARACTERS, []).append(text)
        if len(lengths) == 2:
            break
    assert verifier.verify(lengths[False][-1])
    assert rejection(verifier, lengths[True][0]).code == "invalid_token"


VALID_TOKENS = [own_token(), openid_token(), openid_token(EC, "ES256", "ec")]


@hypothesis_settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_every_modification_of_a_valid_token_is_rejected(verifier: TokenVerifier, data: st.DataObject) -> None:
    valid = data.draw(st.sampled_from(VALID_TOKENS))
    letters = st.text(string.ascii_letters + string.digits + "-_.=", max_size=3)
    changed = valid
    for _ in range(data.draw(st.integers(1, 3))):
        at, cut = data.draw(st.integers(0, len(changed))), data.draw(st.integers(0, 3))
        changed = changed[:at] + data.draw(letters) + changed[at + cut :]
    if changed == valid:
        assert verifier.verify(changed)
    else:
        assert rejection(verifier, changed).code == "invalid_token"


@hypothesis_settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=60)
    | st.tuples(st.binary(max_size=40), st.binary(max_size=80), st.binary(max_size=40)).map(
        lambda parts: ".".join(map(base64url, parts))
    )
)
def test_arbitrary_text_is_rejected_without_another_error(verifier: TokenVerifier, text: str) -> None:
    assert rejection(verifier, text).code == "invalid_token"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@hypothesis_settings(deadline=None, max_examples=300)
@given(claim=st.sampled_from(["sub", "userId", "roles", "iss", "iat", "exp", "nbf", "aud", "auth_time"]), value=_JSON)
def test_a_signed_claim_of_any_type_is_accepted_or_rejected_without_another_error(
    verifier: TokenVerifier, claim: str, value: Any
) -> None:
    for text in (own_token(**{claim: value}), openid_token(**{claim: value})):
        try:
            token = verifier.verify(text)
        except ApiError as error:
            assert error.code in ("invalid_token", "token_expired")
        else:
            assert token.user_id and token.user_id.isprintable() and token.expires_at > token.issued_at


# --- configuration ---


def test_every_token_is_rejected_if_none_is_configured(tmp_path: Path) -> None:
    empty = dict.fromkeys(("security_secret", "security_issuer", "oidc_issuer", "oidc_jwks")) | {"oidc_audience": ()}
    verifier = TokenVerifier.from_settings(accounts.settings(tmp_path, **empty))
    for text in (own_token(), openid_token(), "", "invalid"):
        error = rejection(verifier, text)
        assert (error.code, error.detail) == (
            "invalid_token",
            "This service accepts no tokens. Send an API key in the x-api-key header.",
        )
    assert not verifier


def test_each_kind_of_token_is_accepted_only_if_it_is_configured(tmp_path: Path) -> None:
    only_own = TokenVerifier.from_settings(accounts.settings(tmp_path, oidc_issuer=None))
    only_openid = TokenVerifier.from_settings(accounts.settings(tmp_path, security_secret=None))
    assert only_own.verify(own_token()) and only_openid.verify(openid_token())
    assert rejection(only_own, openid_token()).code == rejection(only_openid, own_token()).code == "invalid_token"


UNSUITABLE_KEYS: dict[str, Any] = {
    "for encryption": lambda: (RSA, jwk(RSA, "k", use="enc")),
    "for another algorithm": lambda: (RSA, jwk(RSA, "k", alg="RS512")),
    "for another operation": lambda: (RSA, jwk(RSA, "k", key_ops=["encrypt"])),
    "RSA of 1024 bits": lambda: ((weak := rsa.generate_private_key(65537, 1024)), jwk(weak, "k")),
    "without a type": lambda: (RSA, jwk(RSA, "k", kty=None)),
    "of another type": lambda: (RSA, jwk(RSA, "k", kty="oct", k=base64url(SECRET))),
    "empty modulus": lambda: (RSA, jwk(RSA, "k", n="")),
    "modulus is a number": lambda: (RSA, jwk(RSA, "k", n=7)),
    "of another curve": lambda: (EC, jwk(ec.generate_private_key(ec.SECP384R1()), "k")),
    "symmetric": lambda: (SECRET, {"kty": "oct", "k": base64url(SECRET), "kid": "k", "alg": "HS512"}),
}


@pytest.mark.parametrize("name", UNSUITABLE_KEYS)
def test_an_unsuitable_published_key_is_ignored(tmp_path: Path, name: str) -> None:
    key, published = UNSUITABLE_KEYS[name]()
    settings = accounts.settings(tmp_path)
    Path(str(settings.oidc_jwks)).write_bytes(jwks(published, jwk(RSA, "rsa"), {"kty": "?"}, 7))  # type: ignore[arg-type]
    algorithm = {bytes: "HS512"}.get(type(key), "ES256" if key is EC else "RS256")
    verifier = TokenVerifier.from_settings(settings)
    assert verifier.verify(openid_token())
    assert rejection(verifier, openid_token(key, algorithm, "k")).code == "invalid_token"


def test_a_token_needs_a_key_id_only_if_there_are_several_keys(tmp_path: Path) -> None:
    settings = accounts.settings(tmp_path)
    assert TokenVerifier.from_settings(settings).verify(openid_token(kid=None))
    Path(str(settings.oidc_jwks)).write_bytes(jwks(jwk(RSA, "rsa"), jwk(UNKNOWN_KEY, "next")))
    assert rejection(TokenVerifier.from_settings(settings), openid_token(kid=None)).code == "invalid_token"


def test_a_key_set_with_private_keys_verifies_tokens(tmp_path: Path) -> None:
    settings = accounts.settings(tmp_path)
    private = jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True)
    Path(str(settings.oidc_jwks)).write_bytes(jwks({**private, "kid": "rsa", "key_ops": ["sign", "verify"]}))
    assert TokenVerifier.from_settings(settings).verify(openid_token())


@pytest.mark.parametrize(
    "content", [None, b"", b"invalid", b"[]", b"null", b'{"keys": 7}', b'{"keys": []}', b"[" * 5000, b'{"keys": [{}]}']
)
def test_an_unusable_key_file_prevents_the_start(tmp_path: Path, content: bytes | None) -> None:
    settings = accounts.settings(tmp_path)
    path = Path(str(settings.oidc_jwks))
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"OIDC_JWKS: the file .* cannot be used: .*"):
        TokenVerifier.from_settings(settings)
