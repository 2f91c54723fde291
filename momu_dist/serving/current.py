"""The models that new requests get: those of folders, or of registered names whose aliases may move."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import torch

from momu_dist.errors import MomuError
from momu_dist.inference.export import MODEL_SCHEME
from momu_dist.inference.generator import Generator
from momu_dist.inference.models import load_models
from momu_dist.inference.vocoders import load_vocoder
from momu_dist.serving.settings import ServiceSettings
from momu_dist.tracking.registry import locate, resolve

_log = logging.getLogger(__name__)


class Current:
    """The newest generator that could be loaded. Older ones live on in the requests that began with them."""

    def __init__(self, settings: ServiceSettings) -> None:
        """Load the models; raises what `Generator.load` and `resolve` raise."""
        self._settings = settings
        self._places = self._tried = self._look_up()
        self.generator = self._load()
        if any(name.startswith(MODEL_SCHEME) for name in self._names()):
            threading.Thread(target=self._watch, name="watch-models", daemon=True).start()

    def refresh(self) -> bool:
        """Take over a version that an alias has moved to; True if there was one.

        Raises what loading it raises; it is not loaded again before an alias moves.
        """
        places, tried = self._look_up(), self._tried
        self._tried = places
        if places in (self._places, tried):
            return False
        self.generator = self._load()
        self._places = places
        _log.info("new requests are made by %s", ", ".join(places))
        return True

    def describe(self) -> dict[str, object]:
        """What new requests are made with: names as given, where they lead, hashes of the weights, directions.

        Of a path only its last part is told.
        """
        models = self.generator.models
        return {
            "checkpoint": [_public(name) for name in self._settings.checkpoint],
            "versions": [_public(place) for place in self._places],
            "directions": sorted(models.denoising),
            "weights": dict(models.origins),
            "vocoder": self.generator.vocoder.name,
            "device": str(models.device),
        }

    def _names(self) -> list[str]:
        vocoder = self._settings.vocoder
        return [*self._settings.checkpoint, *([vocoder] if vocoder else [])]

    def _look_up(self) -> list[str]:
        return [locate(name, self._settings.tracking_uri) for name in self._names()]

    def _load(self) -> Generator:
        settings = self._settings
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        folders = [resolve(name, settings.tracking_uri) for name in settings.checkpoint]
        vocoder = None
        if settings.vocoder:
            vocoder = load_vocoder(resolve(settings.vocoder, settings.tracking_uri), device)
        return Generator(load_models(folders, torch.device(device)), vocoder)

    def _watch(self) -> None:
        while True:
            time.sleep(self._settings.watch_s)
            try:
                self.refresh()
            except MomuError as error:
                # The registry is away, or the new version cannot be used: the old one serves on.
                _log.warning("the models stay as they are: %s", error)
            except Exception:
                _log.exception("the models stay as they are")


def _public(name: str) -> str:
    """A name in the registry as it is, the last part of a path."""
    return name if name.startswith(MODEL_SCHEME) else Path(name).name
