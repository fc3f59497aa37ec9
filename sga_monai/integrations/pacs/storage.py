"""Where C-MOVE sends objects to: a storage SCP (PS3.4 B) that takes those that were asked for, and no other."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from pydicom import uid
from pynetdicom import AE, evt

from sga_monai.core.errors import InputError
from sga_monai.integrations.pacs.server import MOST_WORKERS

STORAGE = (uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation, uid.SecondaryCaptureImageStorage)
# Each is offered in a context of its own, so that an object is sent as it is stored; most archives do not transcode.
SYNTAXES = (
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless,
    uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000, uid.RLELossless,
)  # fmt: skip
# PS3.7 C.5.2: refused, not authorized.
NOT_AUTHORIZED, SUCCESS = 0x0124, 0x0000


class Storage:
    """A listening port, to be used as a context.

    Args:
        title: our AE title, to which the archive sends.
        address: host and port to listen on; an empty host listens on all addresses.
        tls: of a server, for encrypted connections.
    """

    def __init__(self, title: str, address: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.entity = AE(title)
        self.entity.require_called_aet = True
        # The archive may open an association for each C-MOVE, and the next before it has closed the last.
        self.entity.maximum_associations = 2 * MOST_WORKERS
        for storage in STORAGE:
            self.entity.add_supported_context(storage, list(SYNTAXES))
        self.address = address
        self.tls = tls
        self.arrived: dict[str, bytes | None] = {}
        self.changed = threading.Condition()

    def __enter__(self) -> Storage:
        try:
            self.server = self.entity.start_server(self.address, False, self.tls, [(evt.EVT_C_STORE, self._store)])
        except OSError:
            raise InputError("listen: this port cannot be listened on; give another one, which the archive knows") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.entity.shutdown()

    @contextlib.contextmanager
    def expect(self, instance: str) -> Iterator[Callable[[float], bytes | None]]:
        """Take an object meanwhile.

        Args:
            instance: its SOPInstanceUID.

        Yields:
            A function that waits for it, so many seconds, and returns its file, or ``None`` when it does not come.
        """
        with self.changed:
            self.arrived[instance] = None

        def arrival(patience_s: float) -> bytes | None:
            with self.changed:
                self.changed.wait_for(lambda: self.arrived[instance] is not None, patience_s)
                return self.arrived[instance]

        try:
            yield arrival
        finally:
            with self.changed:
                self.arrived.pop(instance, None)

    def _store(self, event: Any) -> int:
        instance = str(event.request.AffectedSOPInstanceUID)
        with self.changed:
            if instance not in self.arrived:
                return NOT_AUTHORIZED
            self.arrived[instance] = event.encoded_dataset()
            self.changed.notify_all()
        return SUCCESS
