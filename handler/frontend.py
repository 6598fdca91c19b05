"""What every way in shares: the boot, the settings, and the service once there is an engine to serve with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler.admission import Admission
from handler.bookkeeping import open_books
from handler.booting import Boot
from handler.epochs import Epoch, Epochs, Moment
from handler.renewal import probe_connections, reseed
from handler.restore import RestoreWatch
from handler.settings import Settings

if TYPE_CHECKING:
    from handler.openai.service import OpenAIService


class Frontend:
    """Hands out the service; one for the process, which it watches for freezes from here on.

    Attributes:
        epochs: the stretches of the process's life between freezes.
        watch: notices the freezes.
        recorder: takes down every billed second.
        admission: who is let in over HTTP.

    Raises:
        InvalidConfig: the file of API keys cannot be used.
    """

    def __init__(self, boot: Boot, settings: Settings) -> None:
        self.boot = boot
        self.settings = settings
        self.admission = Admission(settings)
        self.epochs = Epochs(Moment.now().earlier(boot.timeline.now()))
        self.epochs.on_begin(_renew)
        self.watch = RestoreWatch(self.epochs)
        self.watch.start()
        self.recorder = open_books(settings, boot, self.watch)
        self._service: OpenAIService | None = None

    @property
    def service(self) -> OpenAIService:
        """The service, once the engine can generate.

        Raises:
            NotReady: the engine is still booting.
            EngineDead: the engine has died.
        """
        engine = self.boot.engine
        if self._service is None:
            # What it imports (chat templates, tokenizers) the boot has imported by now; before, it would be in its way.
            from handler.admission_metrics import AdmissionCollector
            from handler.openai.service import OpenAIService

            self._service = OpenAIService(engine, self.settings, self.watch, self.recorder)
            self._service.metrics.include(AdmissionCollector(self.admission, self._service.metrics.labels))
        return self._service

    async def wait(self) -> OpenAIService:
        """The service, waiting for the engine.

        Raises:
            PilotlightError: the engine cannot be booted, or has died.
        """
        await self.boot.wait()
        return self.service


def _renew(epoch: Epoch) -> None:
    reseed()
    probe_connections()
