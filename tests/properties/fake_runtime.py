"""A minimal runtime with sessions, event logs, answers and histories, for clients that resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from arcp_proto.features import Feature

Frame = dict[str, Any]
OF_OTHERS = ["ack", "list_jobs", "subscribe", "progress", "result_chunk", "agent_versions"]
"""The features of a runtime of another implementation: its events carry no positions."""
FEATURES = [*OF_OTHERS, Feature.POSITIONS]


class FakeJob:
    """A job with its whole history: by position, with the number of each event in the submitting session."""

    def __init__(self, job_id: str, request: str) -> None:
        self.id = job_id
        self.request = request
        """Envelope id of the submit that created the job."""
        self.history: list[tuple[int, str, Frame]] = []
        self.home = 0
        self.over = False


class FakeSession:
    """A session: its event log, the answers that it keeps, and the jobs whose events it gets."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.log: list[Frame] = []
        self.first = 1
        """The lowest `event_seq` that the log keeps."""
        self.answers: list[tuple[int, Frame]] = []
        self.own: set[str] = set()
        self.observed: set[str] = set()
        self.tokens: set[str] = set()
        self.answered: dict[str, Frame] = {}
        """Envelope id of a submit -> the payload of its answer."""
        self.out: Callable[[Frame], None] | None = None

    @property
    def last(self) -> int:
        """The `event_seq` of the last event."""
        return self.first - 1 + len(self.log)


class FakeRuntime:
    """A runtime that receives and sends frames, one connection at a time; the arguments say how it resumes.

    Events carry positions if that is among the `features`. With `replies` a resume replays answers. With
    `repeats` a resume replays as many events more than the client asked for. With `refuses_the_end` the
    runtime refuses a resume from the last event of its log. With `silent_keys` only the acceptance answers a
    submit with a known idempotency key: events follow after a subscribe alone.
    """

    def __init__(
        self,
        *,
        replies: bool = True,
        repeats: int = 0,
        features: list[str] | None = None,
        refuses_the_end: bool = False,
        silent_keys: bool = False,
    ) -> None:
        self.silent_keys = silent_keys
        self.refuses_the_end = refuses_the_end
        self.replies = replies
        self.repeats = repeats
        self.features = FEATURES if features is None else features
        self.placed = Feature.POSITIONS in self.features
        self.sessions: dict[str, FakeSession] = {}
        self.jobs: dict[str, FakeJob] = {}
        self.keys: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.current: FakeSession | None = None
        self._ids = 0
        self.refused_resumes = 0

    # The wire.

    def opened(self) -> None:
        """Replace the connection by a new one."""
        self.detach()

    def detach(self) -> None:
        """Lose the connection."""
        if self.current is not None:
            self.current.out = None
        self.current = None

    def receive(self, data: bytes, out: Callable[[bytes], None]) -> None:
        """Process one message of the client, and answer it with `out`."""
        frame = json.loads(data)

        def send(answer: Frame) -> None:
            out(json.dumps(answer).encode())

        match frame["type"]:
            case "session.hello":
                self._hello(frame["payload"], send)
            case "job.submit":
                self._submit(frame)
            case "job.cancel":
                self._cancel(frame)
            case "job.subscribe":
                self._subscribe(frame)
            case "job.unsubscribe" if self.current is not None:
                self.current.observed.discard(frame["payload"]["job_id"])
            case "session.list_jobs":
                jobs = [{"job_id": job_id, "status": "completed"} for job_id in self.jobs]
                self._answer("session.jobs", {"request_id": frame["id"], "jobs": jobs, "next_cursor": None})
            case "session.ack" if self.current is not None:
                assert frame["payload"]["last_processed_seq"] <= self.current.last

    # Steps of a test.

    def emit(self, job: FakeJob, kind: str, body: Frame) -> None:
        """Publish an event of a job."""
        self._publish(job, "job.event", {"kind": kind, "ts": "t", "body": body})

    def finish(self, job: FakeJob, payload: Frame) -> None:
        """Publish the result of a job."""
        job.over = True
        self._publish(job, "job.result", {"final_status": "success", "completed_at": "t", **payload})

    def lose(self) -> None:
        """Lose all sessions, as a restart without a journal of sessions does; jobs continue."""
        self.detach()
        for session in self.sessions.values():
            for job_id in session.own:
                self.jobs[job_id].home = max(self.jobs[job_id].home, session.last)
        self.sessions.clear()

    # Steps of the methods above.

    def _hello(self, hello: Frame, send: Callable[[Frame], None]) -> None:
        resume = hello.get("resume")
        if resume is None:
            self._ids += 1
            session = self.sessions.setdefault(f"sess_{self._ids}", FakeSession(f"sess_{self._ids}"))
            last = 0
        else:
            found = self.sessions.get(self.tokens.get(resume["resume_token"], ""))
            last = resume["last_event_seq"]
            assert (hello["resume_token"], hello["last_event_seq"]) == (resume["resume_token"], last)
            if found is None or last < found.first - 1:
                self.refused_resumes += 1
                payload = {"code": "RESUME_WINDOW_EXPIRED", "message": "gone", "details": {"final": True}}
                send(self._frame("session.error", payload))
                return
            assert last <= found.last
            if self.refuses_the_end and 0 < last == found.last:
                self.refused_resumes += 1
                send(self._frame("session.error", {"code": "RESUME_WINDOW_EXPIRED", "message": "the end"}))
                return
            session = found
        self.current = session
        session.out = send
        self._welcome(session, resume)
        if resume is not None:
            self._replay(session, max(session.first - 1, last - self.repeats))

    def _welcome(self, session: FakeSession, resume: Frame | None) -> None:
        self._ids += 1
        token = f"rt_{self._ids}"
        self.tokens[token] = session.id
        payload = {
            "session_id": session.id,
            "resume_token": token,
            "capabilities": {"features": self.features},
            "replies": self.replies and bool(resume and resume.get("replies")),
        }
        assert session.out is not None
        session.out(self._frame("session.welcome", payload))

    def _replay(self, session: FakeSession, after: int) -> None:
        assert session.out is not None
        answers = [answer for answer in session.answers if answer[0] >= after] if self.replies else []
        for seq in range(after, session.last + 1):
            if seq > after:
                session.out(session.log[seq - session.first])
            for at, frame in answers:
                if at == seq:
                    session.out(frame)

    def _submit(self, frame: Frame) -> None:
        session = self.current
        if session is None:
            return
        request, payload = frame["id"], frame["payload"]
        if request in session.answered:
            self._answer("job.accepted", session.answered[request])
            return
        key = payload.get("idempotency_key")
        job_id = self.keys.get(key) if key else None
        known = job_id is not None and (job_id in session.own or self.silent_keys)
        if job_id is None:
            job_id = f"job_{len(self.jobs)}"
            self.jobs[job_id] = FakeJob(job_id, request)
            if key:
                self.keys[key] = job_id
        job = self.jobs[job_id]
        accepted = {"job_id": job_id, "agent": "a", "lease": {}, "request_id": request, "accepted_at": "t"}
        accepted |= self._last(job)
        session.answered[request] = accepted
        self._answer("job.accepted", accepted)
        if not known and job.history:
            session.observed.add(job_id)
            self._history(session, job, 0)
        elif not known:
            session.own.add(job_id)

    def _cancel(self, frame: Frame) -> None:
        session, job_id = self.current, frame["payload"]["job_id"]
        if session is None:
            return
        if job_id not in self.jobs:
            self._refuse(frame, "JOB_NOT_FOUND")
            return
        self._log(session, "job.cancelled", {"job_id": job_id, "request_id": frame["id"]}, job_id)

    def _subscribe(self, frame: Frame) -> None:
        session, payload = self.current, frame["payload"]
        if session is None:
            return
        job = self.jobs.get(payload["job_id"])
        if job is None:
            self._refuse(frame, "JOB_NOT_FOUND")
            return
        history = payload.get("history", False)
        status = "success" if job.over else "running"
        answer = {
            "job_id": job.id,
            "current_status": status,
            "agent": "a",
            "lease": {},
            "request_id": frame["id"],
            "subscribed_from": job.home,
            "replayed": history,
            **self._last(job),
        }
        self._answer("job.subscribed", answer)
        if job.id not in session.own:
            session.observed.add(job.id)
        if not history:
            return
        after = payload.get("from_job_seq") if self.placed else None
        if after is None:
            seq = payload.get("from_event_seq", 0)
            after = sum(home <= seq for home, _, _ in job.history)
        self._history(session, job, after)

    def _last(self, job: FakeJob) -> Frame:
        return {"job_seq": len(job.history)} if self.placed else {}

    def _history(self, session: FakeSession, job: FakeJob, after: int) -> None:
        for position, (_, message_type, payload) in enumerate(job.history[after:], after + 1):
            self._tell(session, job, message_type, payload, position)

    def _tell(
        self, session: FakeSession, job: FakeJob, message_type: str, payload: Frame, position: int
    ) -> int:
        placed = {"job_seq": position} if self.placed else {}
        return self._log(session, message_type, payload | placed, job.id)

    def _publish(self, job: FakeJob, message_type: str, payload: Frame) -> None:
        home, position = job.home + 1, len(job.history) + 1
        for session in self.sessions.values():
            if job.id in session.own:
                home = max(home, self._tell(session, job, message_type, payload, position))
        job.home = home
        job.history.append((home, message_type, payload))
        for session in self.sessions.values():
            if job.id in session.observed:
                self._tell(session, job, message_type, payload, position)

    def _log(self, session: FakeSession, message_type: str, payload: Frame, job_id: str) -> int:
        seq = session.last + 1
        frame = {
            "arcp": "1.1",
            "id": f"{session.id}e{seq}",
            "type": message_type,
            "job_id": job_id,
            "event_seq": seq,
            "payload": payload,
        }
        session.log.append(frame)
        if session.out is not None:
            session.out(frame)
        return seq

    def _answer(self, message_type: str, payload: Frame) -> None:
        session = self.current
        if session is None:
            return
        frame = self._frame(message_type, payload)
        session.answers.append((session.last, frame))
        if session.out is not None:
            session.out(frame)

    def _refuse(self, frame: Frame, code: str) -> None:
        self._answer("session.error", {"code": code, "message": "no", "request_id": frame["id"]})

    def _frame(self, message_type: str, payload: Frame) -> Frame:
        self._ids += 1
        return {"arcp": "1.1", "id": f"c{self._ids}", "type": message_type, "payload": payload}
