"""Asking the service over HTTP: what is asked again, when and for how long; its errors as sentences."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import NewConnectionError

from momu_dist.errors import ConfigError, MomuError

CONNECT_S, SHORT_S = 10.0, 60.0  # to be connected; to be answered what takes no work
FIRST_PATIENCE_S = 3.0  # with an address where nothing has answered yet
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0
UNAUTHORIZED, BUSY, BAD_GATEWAY = 401, (429, 503), 502
ERROR_CHUNK_BYTES, ERROR_CHUNKS, ERROR_LETTERS = 65_536, 16, 1000
FAULTS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

_log = logging.getLogger(__name__)
T = TypeVar("T")
Body = Path | bytes | None


class ServiceError(MomuError):
    """What the service refused or could not do, in its own sentence, or why it could not be asked.

    `status` is that of its answer in HTTP; None where there was no answer.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class _Setback(Exception):
    """A try that another one may follow, and what is raised when none does.

    `asked_s` is how long the service wants to be left alone, `spent_s` what the try took of the patience; `untouched`
    says that the service has surely not begun with what was asked.
    """

    def __init__(
        self, error: ServiceError, untouched: bool, asked_s: float = 0.0, spent_s: float = 0.0
    ) -> None:
        super().__init__(str(error))
        self.error, self.untouched, self.asked_s, self.spent_s = error, untouched, asked_s, spent_s


class Connection:
    """Asks the service at `url` with a bearer token; `patience_s` bounds the waiting of one call, `wait` does it."""

    def __init__(self, url: str, token: str | None, patience_s: float, wait: Callable[[float], None]) -> None:
        self.url, loopback = _checked_url(url)
        self.wait = wait
        self._patience_s = patience_s
        self._token = _checked_token(token)
        self._session = requests.Session()
        self._session.trust_env = not loopback  # a site's proxy does not lead to this machine
        self._answered = False

    def call(
        self,
        method: str,
        path: str,
        take: Callable[[requests.Response], T],
        *,
        query: Mapping[str, Any] | None = None,
        body: Body = None,
        timeout_s: float = SHORT_S,
        repeatable: bool = True,
        patient: bool = True,
    ) -> T:
        """What `take` makes of the answer, which it reads. What is not `repeatable` is not sent again when the service
        may have begun with it; without `patient` nothing is.
        """
        waited, backoff = 0.0, FIRST_BACKOFF_S
        while True:
            try:
                return self._try(method, path, take, query, body, timeout_s)
            except _Setback as setback:
                if not (repeatable or setback.untouched):
                    raise ServiceError(
                        f"what was sent to {self.url} may have arrived or not ({str(setback).rstrip('.')}); send it "
                        "again: what follows from the same seeds is the same, and what nobody asks for expires."
                    ) from setback
                # Many that were turned away together are not to come back together.
                pause = max(setback.asked_s, backoff) * random.uniform(1.0, 1.25)
                patience = self._patience_s if self._answered else min(FIRST_PATIENCE_S, self._patience_s)
                waited += setback.spent_s
                if not patient or waited + pause > patience:
                    raise setback.error from setback.__cause__
                if waited <= LONGEST_BACKOFF_S < waited + pause:
                    _log.warning("waiting for the service: %s", setback)
            self.wait(pause)
            waited, backoff = waited + pause, min(2 * backoff, LONGEST_BACKOFF_S)

    def renew(self) -> None:
        """Let the next call open a connection: one that has idled may be gone, which shows only after sending."""
        self._session.close()

    def _try(
        self,
        method: str,
        path: str,
        take: Callable[[requests.Response], T],
        query: Mapping[str, Any] | None,
        body: Body,
        timeout_s: float,
    ) -> T:
        try:
            with self._send(method, path, query, body, timeout_s) as response:
                self._answered = True
                if 200 <= response.status_code < 300:
                    return take(response)
                error = _refusal(response)
                if error.status == UNAUTHORIZED:
                    raise ServiceError(self._unauthorized(), error.status)
                if error.status in BUSY:
                    raise _Setback(error, untouched=True, asked_s=_retry_after_s(response))
                if error.status == BAD_GATEWAY:
                    raise _Setback(error, untouched=False)
                raise error
        except FAULTS as fault:
            raise self._broken(fault, timeout_s) from fault
        except requests.RequestException as fault:
            raise ServiceError(f"{self.url} cannot be asked ({_reason(fault)}).") from fault

    def _send(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: Body, timeout_s: float
    ) -> requests.Response:
        # A file is opened anew for each try, and streams.
        with body.open("rb") if isinstance(body, Path) else nullcontext(body) as data:
            return self._session.request(
                method,
                self.url + path,
                params=query,
                data=data,
                headers={"Content-Type": "application/octet-stream"} if body is not None else None,
                auth=self._authorize,
                timeout=(CONNECT_S, timeout_s),
                stream=True,
                allow_redirects=False,  # it would make a GET of a POST
            )

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Given even without a token, since it keeps `requests` from sending what a .netrc holds for the host.
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _unauthorized(self) -> str:
        found = "was given none" if self._token is None else "was given another"
        return (
            f"{self.url} asks for its token and {found}; give it with --token-file, or as MOMU_SERVE_TOKEN."
        )

    def _broken(self, fault: Exception, timeout_s: float) -> _Setback:
        unconnected = isinstance(fault, requests.ConnectTimeout) or isinstance(
            getattr(fault.args[0] if fault.args else None, "reason", None), NewConnectionError
        )
        spent = 0.0
        if isinstance(fault, requests.Timeout):
            spent = CONNECT_S if unconnected else timeout_s
        if spent and not unconnected:
            sentence = (
                f"{self.url} has not answered within {timeout_s:g} s; try again, or ask for less at once."
            )
        elif self._answered:
            sentence = (
                f"the connection to {self.url} broke ({_reason(fault)}); try again when the service is back."
            )
        else:
            sentence = f"no service answers at {self.url} ({_reason(fault)}); start one (momu serve), or give its URL."
        return _Setback(ServiceError(sentence), unconnected, spent_s=spent)


def read_json(response: requests.Response) -> Any:
    """The answer as JSON."""
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise ServiceError(
            f"{_where(response)} answered no JSON ({error}); see that momu's service is at this address.",
            response.status_code,
        ) from error


def _checked_url(url: str) -> tuple[str, bool]:
    """The URL without a last slash, and whether it is one of this machine, without encryption."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(
            f"the service's URL cannot be read ({error}), expected such as http://127.0.0.1:8000."
        ) from error
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "the service's URL holds a name or password, expected none; give the token by itself."
        )
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(f"the service's URL is {url!r}, expected such as http://127.0.0.1:8000.")
    return url.rstrip("/"), parts.scheme == "http" and _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked_token(token: str | None) -> str | None:
    token = (token or "").strip()
    if not token.isascii() or any(letter.isspace() or not letter.isprintable() for letter in token):
        raise ConfigError(
            "the token holds a space or a letter beyond ASCII, expected one word; see where it is from."
        )
    return token or None


def _refusal(response: requests.Response) -> ServiceError:
    """The service's own sentence, or one about an answer that holds none."""
    status = response.status_code
    try:
        chunks = islice(response.iter_content(ERROR_CHUNK_BYTES), ERROR_CHUNKS)
        said = json.loads(b"".join(chunks))["error"]
    except (requests.RequestException, ValueError, LookupError, TypeError):
        said = None
    if isinstance(said, str) and said.strip():
        return ServiceError(printable(said), status)
    if 300 <= status < 400:
        place = printable(response.headers.get("Location", "elsewhere"))
        return ServiceError(
            f"{_where(response)} answered that it is at {place}; give the URL of that.", status
        )
    return ServiceError(
        f"{_where(response)} answered {status} ({printable(response.reason or '')}) without saying why; see that momu's "
        "service is at this address.",
        status,
    )


def _where(response: requests.Response) -> str:
    """What was asked for, without the settings."""
    return (response.url or "").partition("?")[0]


def printable(text: str) -> str:
    """One line of at most ERROR_LETTERS that does nothing to a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text.strip()[:ERROR_LETTERS])


def _retry_after_s(response: requests.Response) -> float:
    """Seconds by the header Retry-After, which is a number or a date; 0 without one that can be read."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _reason(fault: BaseException) -> str:
    """What lies at the bottom of a fault, in few words."""
    while (below := fault.__cause__ or fault.__context__) is not None:
        fault = below
    return (getattr(fault, "strerror", None) or str(fault) or type(fault).__name__).rstrip(".")
