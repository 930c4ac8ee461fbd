"""The reference model: what a runtime owes to its sessions, and a client to its user, by the protocol alone.

`tests/properties` knows each request at the moment at which the runtime carries it out, `tests/simulation`
reads it from the wire, where answers come late and crashes take what was not durable. Both go by the same
rules, which are stated here once. "draft" is ARCP v1.1, and the other sections are those of
`/shared/protocol.md`; the quoted sentences are its own.

Which events of a job are due to a session, in which order (`streams`; draft §7.6, §8.3; protocol §5, §6):

* Every event and the end of a job have a position, "its place in that job, from 1, without gaps over all
  kinds, the same in every session, after every resume and restart". In each session a job is one stream, in
  which positions rise; nothing is left out but what the session does not take, or was told to be gone.
* A job that a session has submitted flows there from its first event to its end, and "unsubscribe only ends
  observing".
* A subscription without history begins behind the last event. One with history begins where it was asked for,
  or at the first event that is left, and sets a stream back that is there already: "`from_job_seq` (with
  `history: true`: everything above it; wins over `from_event_seq`)". Of a job that is over it brings nothing
  unless it asks for what is before the end.
* A session without positions goes by numbers of the session: a history of its own job stands between the
  events that "already flow" there, as a stream beside them.
* A submit with a key of before brings, "unless the job already flows in that session, history, live and end
  as to an observer"; "job over: the terminal always comes, again if need be, alone if the history is gone".
* After the end nothing of the job follows "but what a client asks for again: job.cancelled, a repeated
  submit, a subscribe with history".
* The notice `unsubscribed` ends an observation, and nothing else.

What a session gets of the kinds of events (`wire`; draft §6.2; protocol §2): a session without `progress` or
`result_chunk` gets no such event, and one without `cost.budget` no `cost.budget.remaining`. Values of
credentials go to the owner of the job, if its session has `provisioned_credentials`. Notices of one session
have no position.

What a resume may give (`tokens`; draft §6.3; protocol §2): valid are "the last proven token and all issued
after it (at most 4)". Proving a token ends all older ones. A session is resumed by its principal, or by its
token alone as long as its authentication lasts. "A resume is served when first − 1 ≤ last_event_seq ≤ last";
above `last` it is INVALID_REQUEST, and below `first − 1` RESUME_WINDOW_EXPIRED, as for a token that is not
valid.

Rights to see a job, and pages of a listing (`visibility`; draft §6.6, §7.6; protocol §6): the owner
observes its jobs; the host may widen that per principal to "list" or "observe", for one owner or for "*". A
page has at most as many jobs as were asked for, 100 without a number and 1,000 at most; a filter names
statuses, of which an unknown one matches nothing, and an agent by its bare name or `name@version`.

What a user is handed of a job by a client (`cursor`; protocol §5): the user has one cursor in each job, the
position of the last event that it was handed. The next event is the first one above it that the session
takes. A history that the user asks for again sets the cursor back. What is stored for the next process is the
position up to which everything is processed, in the order in which it was handed out.
"""
