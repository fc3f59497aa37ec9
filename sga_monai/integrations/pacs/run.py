"""The work of one pull: studies are found, then their objects fetched, by several threads with a connection each."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from sga_monai.core.errors import InputError
from sga_monai.core.files import write_bytes
from sga_monai.data.identity import same_id
from sga_monai.data.pseudonyms import patient_key
from sga_monai.integrations.pacs.accounting import AGAIN, CONFLICT, FETCHED, NOT_FOUND, NOT_TRIED, SEVERAL, THERE, Accounting, Line
from sga_monai.integrations.pacs.progress import Progress
from sga_monai.integrations.pacs.query import Wanted
from sga_monai.integrations.pacs.received import Rejected, is_of, reason_against
from sga_monai.integrations.pacs.retry import Retry
from sga_monai.integrations.pacs.server import MOST_STUDIES, Image, Server, ServerRefusal, Study, TransferError

Task = TypeVar("Task")
Result = TypeVar("Result")
WITHDRAWN = "withdrawn"
TRY_AGAIN = "then give the same command again: what is complete is not fetched again"


@dataclass
class Job:
    """A study to be fetched.

    Attributes:
        study: as the archive gives it.
        name: its pseudonym, also the name of its folder.
        wanted: the first row that found it.
        line: of that row, which counts its objects.
        kept: names of the files that this pull fetched or found there.
        withdrawn: number of other files that were in its folder.
    """

    study: Study
    name: str
    wanted: Wanted
    line: Line
    kept: set[str] = field(default_factory=set)
    withdrawn: int = 0


class Run:
    """One pull: its connections, and what became of its rows. To be used as a context, which ends the connections.

    Args:
        images: the folder that gets ``<study>/<object>.dcm``; what is no longer of a study is moved to a folder beside it.
        key: of ``read_site_key``, with which both are named.
        connect: makes a connection; called once in each thread.
        workers: threads.
        retry: of each request.
        rejected: objects that an earlier pull rejected.
    """

    def __init__(self, images: Path, key: bytes, connect: Callable[[], Server], workers: int, retry: Retry, rejected: Rejected) -> None:
        self.images = images
        self.key = key
        self.connect = connect
        self.retry = retry
        self.rejected = rejected
        self.accounting = Accounting()
        self.stop = threading.Event()
        self.refusal: ServerRefusal | None = None
        self.pool = ThreadPoolExecutor(workers)
        self.local = threading.local()
        self.connections: list[Server] = []
        self.lock = threading.Lock()

    def find(self, rows: Sequence[Wanted], progress: Progress) -> list[Job]:
        """The studies of all rows, each once; a study that rows with different labels find is not fetched."""
        progress.begin("finding studies", len(rows))
        jobs: dict[str, Job] = {}
        conflicts: set[str] = set()
        for wanted, found in zip(rows, self._each(rows, self._find, progress), strict=True):
            if isinstance(found, str) or not found:
                self._line(wanted, outcome=str(found or NOT_FOUND))
                continue
            for study in found:
                first = jobs.get(study.uid)
                if first is None:
                    name = patient_key(study.uid, self.key)
                    jobs[study.uid] = Job(study, name, wanted, self._line(wanted, name))
                    continue
                if first.wanted.label.label != wanted.label.label:
                    conflicts.add(study.uid)
                    first.line.outcome = CONFLICT
                self._line(wanted, first.name, CONFLICT if study.uid in conflicts else AGAIN)
        return [job for uid, job in jobs.items() if uid not in conflicts]

    def fetch(self, jobs: Sequence[Job], progress: Progress) -> None:
        """Fetch the objects of all studies and count them."""
        progress.begin("fetching studies", len(jobs))
        for job in jobs:
            job.line.outcome = NOT_TRIED
        self._each(jobs, lambda job: self._fetch(job, progress), progress)

    def _line(self, wanted: Wanted, study: str = "", outcome: str = "") -> Line:
        line = Line(wanted.row, wanted.label.label, study, outcome=outcome)
        self.accounting.lines.append(line)
        return line

    def _find(self, wanted: Wanted) -> list[Study] | str:
        """The studies of one row, or why they are not taken."""
        try:
            found = self._ask(lambda server: server.find(wanted))
        except TransferError as error:
            return f"failed: {error.code}"
        if len(found) > MOST_STUDIES:
            return "failed: ignored_keys"
        fitting = [study for study in found if wanted.fits(study.accession, study.patient_id, study.day)]
        unique = {study.uid: study for study in fitting}
        patients = {same_id(study.patient_id) for study in fitting}
        # Whom the archive does not tell may be anybody.
        if len(patients) > 1 or ("" in patients and len(unique) > 1):
            return SEVERAL
        return list(unique.values())

    def _fetch(self, job: Job, progress: Progress) -> None:
        line = job.line
        try:
            found = self._ask(lambda server: server.images(job.study))
        except TransferError as error:
            line.outcome = f"failed: {error.code}"
            return
        folder = self.images / job.name
        for image in dict.fromkeys(found):
            name = patient_key(image.instance, self.key)
            path = folder / f"{name}.dcm"
            outcome = self._fetch_image(job.study, image, name, path, progress)
            line.objects[outcome] += 1
            if outcome in (FETCHED, THERE):
                job.kept.add(path.name)
        for path in sorted(folder.glob("*.dcm")):
            if path.name not in job.kept:
                self._withdraw(path)
                job.withdrawn += 1
        line.outcome = ""

    def _withdraw(self, path: Path) -> None:
        """Move a file that is no longer of a study, or of another patient, to where nothing lists it."""
        folder = self.images.with_name(WITHDRAWN) / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        # Images may be on another disk.
        shutil.move(path, folder / path.name)

    def _fetch_image(self, study: Study, image: Image, name: str, path: Path, progress: Progress) -> str:
        """What became of one object."""
        if path.exists() and is_of(path, study.patient_id):
            return THERE
        code = image.refusal or self.rejected.reason(name)
        if code:
            return f"rejected: {code}"
        try:
            data = self._ask(lambda server: server.fetch(image))
        except TransferError as error:
            return f"failed: {error.code}"
        progress.received(len(data))
        verdict = reason_against(data, image, study.patient_id)
        if verdict is None:
            write_bytes(path, data)
            return FETCHED
        if verdict.final:
            self.rejected.add(name, verdict.code)
            return f"rejected: {verdict.code}"
        return f"failed: {verdict.code}"

    def _ask(self, request: Callable[[Server], Result]) -> Result:
        """The answer to a request over this thread's connection, asked again where that may help.

        Raises:
            ServerRefusal: also when the server stayed away for as long as it was asked.
            TransferError: when it failed for another reason.
        """
        if self.refusal is not None:
            raise self.refusal
        try:
            return self.retry.call(lambda: self._guarded(request), self.stop)
        except (ServerRefusal, TransferError) as error:
            if isinstance(error, TransferError) and error.code != "unreachable":
                raise
            # Set here, so that no other thread begins another request.
            self.refusal = self.refusal or ServerRefusal(f"{error}; {TRY_AGAIN}" if isinstance(error, TransferError) else str(error))
            self.stop.set()
            raise self.refusal from None

    def _guarded(self, request: Callable[[Server], Result]) -> Result:
        """One try; whatever a library raises about an answer would quote it."""
        try:
            return request(self._server())
        except (TransferError, InputError, MemoryError):
            raise
        except Exception:
            raise TransferError("protocol") from None

    def _server(self) -> Server:
        if not hasattr(self.local, "server"):
            self.local.server = self.connect()
            with self.lock:
                self.connections.append(self.local.server)
        server: Server = self.local.server
        return server

    def _each(self, tasks: Sequence[Task], work: Callable[[Task], Result], progress: Progress) -> list[Result]:
        """``work`` of every task, in order; when one raises, no other is begun."""
        futures: list[Future[Result]] = []
        for task in tasks:
            futures.append(self.pool.submit(work, task))
            if not self.connections:
                # The first alone: a wrong password that several workers give at once may lock the account.
                futures[0].result()
        left: set[Future[Result]] = set(futures)
        while left:
            done, left = wait(left, timeout=1.0, return_when=FIRST_COMPLETED)
            progress.advance(len(done))
            for future in done:
                future.result()
        return [future.result() for future in futures]

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None:
            self.stop.set()
        self.pool.shutdown(cancel_futures=True)
        for server in self.connections:
            server.close()
