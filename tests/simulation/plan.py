"""The plan that a seed draws: the options of a run, and its moves.

Moves are drawn before the run, and their numbers decide all their choices, so that a failing run is made
smaller by leaving out moves. The choices of the network and of other faults (delays, cuts) come from another
generator, while the run goes on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from arcp_proto.ids import MILLISECOND, SECOND
from arcp_proto.limits import KIB, Limits

PRINCIPALS: Final = ("alice", "bob", "carol", "mallory")
NUMBERS: Final = 1 << 16
"""The numbers of a move are below this one."""


class Move(NamedTuple):
    """One step of a run: after `wait` nanoseconds, an action of this kind; three numbers make its choices."""

    wait: int
    kind: str
    a: int
    b: int
    c: int


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """One client of a run: a `raw` one sends what it likes, an honest one uses the client of this package.

    `reconnect` means that the client resumes by itself, `stores` that its session survives a crash of it, and
    `takes_at_once` that it processes each event as it comes.
    """

    principal: str
    raw: bool = False
    lines: bool = False
    reconnect: bool = True
    stores: bool = False
    takes_at_once: bool = True
    features: tuple[str, ...] = ()
    guest: bool = False
    """Whether the client is one of another tenant, which may list and observe."""
    positions: bool = True
    """Whether the client negotiates positions; honest clients always do."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a run. Times are in nanoseconds, unless the name has another unit."""

    seed: int
    cast: tuple[Actor, ...]
    journal: str = "prompt"
    """`prompt`: durable at once; `late`: after a while; `off`: no journal, and no crash of the runtime."""
    sync: int = 0
    """The longest sync of a `late` journal."""
    window_sec: int = 60
    heartbeat_sec: int = 0
    delay: int = MILLISECOND
    """The longest delay of the network."""
    cuts: int = 0
    """The percentage of deliveries of bytes that are cut."""
    buffer: int = 64 * KIB
    """Bytes that a transport takes before a write waits."""
    pull: int = 0
    """The most envelopes of one pull; 0: as many as the limits permit."""
    late_timer: int = 0
    """The longest delay of a timer."""
    verify: int = 0
    """The longest time of a verification by the host."""
    verifier_fails: int = 0
    """The percentage of verifications that fail."""
    expires: int = 0
    """How long an authentication is valid; 0: for ever."""
    observers: Mapping[str, Mapping[str, str]] = {}
    slow_disk: bool = False
    """Agents publish without pause, and no client that reads may lose an event by that (I11)."""
    models_required: bool = True
    credentials: bool = False
    limits: Limits = Limits()
    client_limits: Limits = Limits()


class Plan(msgspec.Struct, frozen=True):
    """A run: its options and its moves."""

    options: Options
    moves: tuple[Move, ...]


WEIGHTS: Final[Mapping[str, int]] = {
    "submit": 14,
    "emit": 30,
    "stream": 6,
    "finish": 9,
    "fail": 3,
    "cancel": 5,
    "subscribe": 8,
    "unsubscribe": 2,
    "list_jobs": 3,
    "take_in": 10,
    "wait": 4,
    "drop": 10,
    "half_close": 3,
    "stall": 6,
    "unstall": 4,
    "kill_client": 4,
    "close_session": 1,
    "leave": 2,
    "crash": 2,
    "compact": 2,
    "step_clock": 2,
    "slow_disk": 2,
    "observers": 1,
    "refuse_dials": 1,
    "lie": 24,
}
"""The weight of each kind of move; a run leaves some kinds out."""

FAULTS: Final = (
    *("drop", "half_close", "stall", "kill_client", "crash", "compact", "step_clock", "slow_disk"),
    *(
        "observers",
        "refuse_dials",
        "lie",
        "cancel",
        "subscribe",
        "list_jobs",
        "stream",
        "leave",
        "close_session",
    ),
)
"""Kinds of moves that a run may leave out."""

AUTHORITY: Final[Mapping[str, int]] = {
    "submit_lease": 14,
    "lie_lease": 3,
    "operate": 24,
    "spend": 12,
    "flood": 2,
    "forge": 2,
    "reserve": 8,
    "settle": 6,
    "delegate": 20,
    "upstream": 1,
    "rotate": 6,
    "cancel_child": 3,
    "watch_child": 4,
    "near_expiry": 3,
}
"""The weights of the moves of a run with leases and budgets; each such move follows one of the others."""
PROBES: Final[Mapping[str, int]] = {
    "page": 12,
    "old_token": 4,
    "watch_other": 4,
    "take_right": 2,
}
"""The weights of moves that check what earlier runs did not; one in eight moves is followed by one of
them."""
OF_AUTHORITY: Final = ("lease_expires_at", "cost.budget", "model.use")


ROOMY_EVENTS: Final = 400
ROOMY_BYTES: Final = 200_000
"""The size of a small log in a run with a slow disk: more than all agents publish in one turn."""
OF_EVENTS: Final = ("progress", "result_chunk")
FEW_FEATURES: Final = 1_000_000_000
"""From this seed on many sessions do not negotiate some kinds of events, also sessions that submit."""
SLOW_DISK: Final = 2_000_000_000
"""From this seed on the disk is slow, and agents publish without pause, as far as they are permitted."""
MIXED: Final = 3_000_000_000
"""From this seed on the kinds of seeds before this one alternate."""

HAND_OVERS: Final = 10_000_000_000
"""From this seed on the kinds alternate as before, and the runtime also hands over to the next one."""

FOCUSED: Final = 20_000_000_000
"""From this seed on runs are as before, with more of the moves and limits that have found most bugs: see
FOCUSES."""


class Focus(NamedTuple):
    """Weights of kinds of moves that are higher, or lower, than in other runs."""

    weights: Mapping[str, int]
    authority: Mapping[str, int] = {}


FOCUSES: Final[Sequence[Focus]] = (
    # Trees of jobs whose histories are asked for while they delegate and end.
    Focus(
        {"subscribe": 40, "unsubscribe": 8, "kill_client": 8, "crash": 5, "compact": 4, "lie": 6}
        | {"finish": 14, "submit": 18},
        {"delegate": 45, "watch_child": 24, "cancel_child": 8, "operate": 8, "spend": 20},
    ),
    # Clients and runtimes that die while jobs are followed and left.
    Focus(
        {"kill_client": 16, "crash": 10, "subscribe": 26, "unsubscribe": 12, "leave": 6, "drop": 20}
        | {"compact": 6, "lie": 4, "submit": 22},
        {"delegate": 25, "watch_child": 12},
    ),
    # Observers of many jobs, some of which do not read.
    Focus(
        {"subscribe": 60, "unsubscribe": 20, "observers": 6, "lie": 20, "stall": 12, "drop": 14, "emit": 40},
        {"watch_child": 20, "delegate": 30},
    ),
    # Idempotency keys that come again over lost connections and restarts.
    Focus(
        {"submit": 40, "kill_client": 12, "drop": 24, "crash": 8, "finish": 16, "subscribe": 14}
        | {"unsubscribe": 8, "lie": 4}
    ),
)


def draw(seed: int, inputs: int = 200, *, authority: bool = True) -> Plan:
    """Draw the plan of a seed: with probes, and in half of the seeds with authority, unless excluded."""
    focus = FOCUSES[seed // 3 % len(FOCUSES)] if seed >= FOCUSED else Focus({})
    plan = _with_few_positions(_draw(seed, inputs, focus.weights), random.Random(f"positions {seed}"))
    if seed >= FOCUSED:
        plan = _with_tight_limits(plan, random.Random(f"limits {seed}"))
    kind = seed % 3 * FEW_FEATURES if seed >= MIXED else seed
    if kind >= SLOW_DISK:
        plan = _with_slow_disk(plan, random.Random(f"disk {seed}"))
    elif kind >= FEW_FEATURES:
        plan = _with_few_features(plan, random.Random(f"features {seed}"))
    if seed >= HAND_OVERS and (seed < FOCUSED or seed // 3 // len(FOCUSES) % 3 == 2):
        plan = _with_hand_overs(plan, random.Random(f"hand overs {seed}"))
    if not authority:
        return plan
    dice = random.Random(f"authority {seed}")
    plan = _with_authority(plan, dice, focus.authority) if dice.random() < 0.5 else plan
    return _with_probes(plan, random.Random(f"probes {seed}"))


def _with_probes(plan: Plan, dice: random.Random) -> Plan:
    """Return the run with moves that page through listings, use old tokens, and take away rights."""
    number, moves = dice.randrange, []
    for move in plan.moves:
        moves.append(move)
        if dice.random() < 1 / 8:
            kind = dice.choices(list(PROBES), list(PROBES.values()))[0]
            moves.append(Move(0, kind, number(NUMBERS), number(NUMBERS), number(NUMBERS)))
    return Plan(plan.options, tuple(moves))


def _with_hand_overs(plan: Plan, dice: random.Random) -> Plan:
    """Return the run with hand-overs of the runtime; half of the crashes become hand-overs."""
    if plan.options.journal == "off":
        return plan
    number, moves = dice.randrange, []
    for move in plan.moves:
        crashes = move.kind == "crash" and dice.random() < 0.5
        moves.append(move._replace(kind="hand_over") if crashes else move)
        if dice.random() < 0.03:
            moves.append(Move(0, "hand_over", number(NUMBERS), number(NUMBERS), number(NUMBERS)))
    return Plan(plan.options, tuple(moves))


def _with_tight_limits(plan: Plan, dice: random.Random) -> Plan:
    """Return the run, in two of three cases with more small limits."""
    if dice.random() < 1 / 3:
        return plan
    limits, usual, more = plan.options.limits, Limits(), _limits(dice)
    small = {
        name: getattr(more, name)
        for name in Limits.__struct_fields__
        if getattr(limits, name) == getattr(usual, name) != getattr(more, name)
    }
    limits, clients = msgspec.structs.replace(limits, **small), plan.options.client_limits
    if _is_tight(limits):
        clients = msgspec.structs.replace(clients, max_pending_requests=6)
    return Plan(msgspec.structs.replace(plan.options, limits=limits, client_limits=clients), plan.moves)


def _with_few_positions(plan: Plan, dice: random.Random) -> Plan:
    """Return the run in which half of the raw clients do not negotiate positions."""
    cast = tuple(
        msgspec.structs.replace(actor, positions=not actor.raw or dice.random() < 0.5)
        for actor in plan.options.cast
    )
    return Plan(msgspec.structs.replace(plan.options, cast=cast), plan.moves)


def _with_few_features(plan: Plan, dice: random.Random) -> Plan:
    """Return the run in which half of the clients lack progress, and half lack chunks of a result."""
    cast = []
    for actor in plan.options.cast:
        missing = [name for name in OF_EVENTS if dice.random() < 0.5]
        features = tuple(name for name in actor.features if name not in missing)
        cast.append(msgspec.structs.replace(actor, features=features))
    return Plan(msgspec.structs.replace(plan.options, cast=tuple(cast)), plan.moves)


def _with_slow_disk(plan: Plan, dice: random.Random) -> Plan:
    """Return the run with a slow disk and fast agents; a log has room for the events of one turn."""
    options, number, moves = plan.options, dice.randrange, []
    for move in plan.moves:
        moves.append(move)
        if dice.random() < 0.15:
            kind = dice.choice(("pour", "pour", "slow_disk"))
            moves.append(Move(_wait(dice) // 4, kind, number(NUMBERS), number(NUMBERS), number(NUMBERS)))
    small = dice.random() < 0.75
    limits = msgspec.structs.replace(
        options.limits,
        max_session_events=ROOMY_EVENTS if small else Limits().max_session_events,
        max_session_bytes=ROOMY_BYTES if dice.random() < 0.5 else Limits().max_session_bytes,
        **{name: getattr(Limits(), name) for name in ("max_principal_events", "max_principal_bytes")},
        **{name: getattr(Limits(), name) for name in ("max_total_events", "max_total_bytes")},
    )
    options = msgspec.structs.replace(
        options,
        journal=dice.choice(("prompt", "late", "late", "late")),
        sync=dice.choice((1, 20, 300, 2_000)) * MILLISECOND,
        limits=limits,
        slow_disk=True,
    )
    return Plan(options, tuple(moves))


def _with_authority(plan: Plan, dice: random.Random, focus: Mapping[str, int]) -> Plan:
    """Return the run with leases, budgets and children."""
    often, number = dice.random, dice.randrange
    usual = {**AUTHORITY, **focus}
    weights = {kind: weight * dice.choice((0, 1, 1, 1, 3)) for kind, weight in usual.items()}
    weights["submit_lease"] = weights["submit_lease"] or AUTHORITY["submit_lease"]
    if not any(actor.raw for actor in plan.options.cast):
        weights["lie_lease"] = 0
    kinds = dice.choices(list(weights), list(weights.values()), k=len(plan.moves))
    moves = []
    for move, kind in zip(plan.moves, kinds, strict=True):
        wait = _wait(dice) // 4
        moves += [move, Move(wait, kind, number(NUMBERS), number(NUMBERS), number(NUMBERS))]
    limits = plan.options.limits
    limits = msgspec.structs.replace(
        limits,
        max_delegation_depth=dice.choice((1, 2, 8)) if often() < 0.25 else limits.max_delegation_depth,
        max_job_children=dice.choice((1, 2)) if often() < 0.15 else limits.max_job_children,
        max_job_descendants=dice.choice((1, 3)) if often() < 0.15 else limits.max_job_descendants,
    )
    credentials = often() < 0.4
    more = (*OF_AUTHORITY, "provisioned_credentials") if credentials else OF_AUTHORITY
    cast = tuple(
        msgspec.structs.replace(actor, features=(*actor.features, *more)) if often() < 0.9 else actor
        for actor in plan.options.cast
    )
    options = msgspec.structs.replace(
        plan.options, cast=cast, limits=limits, models_required=often() < 0.7, credentials=credentials
    )
    return Plan(options, tuple(moves))


def _draw(seed: int, inputs: int, focus: Mapping[str, int]) -> Plan:
    dice = random.Random(seed)
    options = _options(seed, dice)
    weights = {**WEIGHTS, **focus}
    for kind in FAULTS:
        if dice.random() < 0.2:
            weights[kind] = 0
        elif dice.random() < 0.2:
            weights[kind] *= 3
    if options.journal == "off":
        weights["crash"] = weights["compact"] = 0
    if not any(actor.raw for actor in options.cast):
        weights["lie"] = 0
    hurry = dice.choice((1, 1, 1, 4))
    kinds = dice.choices(list(weights), list(weights.values()), k=inputs)
    number = dice.randrange
    moves = [
        Move(_wait(dice) // hurry, kind, number(NUMBERS), number(NUMBERS), number(NUMBERS)) for kind in kinds
    ]
    return Plan(options, tuple(moves))


def _wait(dice: random.Random) -> int:
    drawn = dice.random()
    if drawn < 0.45:
        return 0
    if drawn < 0.75:
        return int(dice.random() * 20 * MILLISECOND)
    if drawn < 0.93:
        return int(dice.random() * 400 * MILLISECOND)
    if drawn < 0.985:
        return int(dice.random() * 5 * SECOND)
    return int(dice.random() * 40 * SECOND)


def _options(seed: int, dice: random.Random) -> Options:
    often = dice.random
    journal = dice.choice(("prompt", "late", "late", "late", "off"))
    limits = _limits(dice)
    requests = 6 if often() < 0.3 or _is_tight(limits) else 500
    return Options(
        seed=seed,
        cast=_cast(dice),
        journal=journal,
        sync=dice.choice((1, 20, 300)) * MILLISECOND,
        window_sec=dice.choice((2, 20, 60, 600)),
        heartbeat_sec=dice.choice((0, 0, 5, 30)),
        delay=dice.choice((0, 2, 30, 300)) * MILLISECOND,
        cuts=dice.choice((0, 20, 60)),
        buffer=dice.choice((300, 2 * KIB, 64 * KIB)),
        pull=dice.choice((0, 0, 1, 3)),
        late_timer=dice.choice((0, 0, 200)) * MILLISECOND,
        verify=dice.choice((0, 0, 50, 12_000)) * MILLISECOND,
        verifier_fails=dice.choice((0, 0, 0, 10)),
        expires=dice.choice((0, 0, 0, 0, 20)) * SECOND,
        observers={"carol": {"alice": "observe", "bob": "list"}} if often() < 0.5 else {},
        limits=limits,
        client_limits=Limits(gap_timeout_sec=1, max_pending_requests=requests),
    )


def _cast(dice: random.Random) -> tuple[Actor, ...]:
    raw_share = dice.choice((0.0, 0.2, 0.5))
    cast = []
    for number in range(dice.randint(2, 8)):
        raw = number > 0 and dice.random() < raw_share
        missing: tuple[str, ...] = ()
        if dice.random() < 0.25:
            missing = (dice.choice(("progress", "result_chunk", "ack", "heartbeat", "subscribe")),)
        cast.append(
            Actor(
                principal=dice.choice(PRINCIPALS if raw else PRINCIPALS[:3]) if number else "alice",
                raw=raw,
                lines=dice.random() < 0.5,
                reconnect=dice.random() < 0.85,
                stores=dice.random() < 0.6,
                takes_at_once=dice.random() < 0.7,
                features=tuple(name for name in FEATURES if name not in missing),
            )
        )
    return tuple(cast)


FEATURES: Final = (
    *("heartbeat", "ack", "list_jobs", "subscribe", "progress", "result_chunk", "agent_versions"),
)


def _is_tight(limits: Limits) -> bool:
    """Return whether clients may have few requests open: a small log has to hold all answers at once.

    The same is true of the answers that wait for a transport; more of them close it.
    """
    small_log = limits.max_session_events < 30 or limits.max_session_bytes < 5_000
    return limits.max_control_envelopes < 100 or small_log


def _limits(dice: random.Random) -> Limits:
    """Draw limits, most of which have their default values."""

    def small(name: str, *values: int) -> int:
        default: int = getattr(Limits(), name)
        return dice.choice(values) if dice.random() < 0.25 else default

    return Limits(
        max_chunk_bytes=small("max_chunk_bytes", 64, 200),
        max_session_events=small("max_session_events", 8, 16, 30),
        max_session_bytes=small("max_session_bytes", 1_000, 5_000),
        max_principal_events=small("max_principal_events", 10, 50),
        max_principal_bytes=small("max_principal_bytes", 3_000, 20_000),
        max_total_events=small("max_total_events", 20, 100),
        max_total_bytes=small("max_total_bytes", 5_000, 50_000),
        max_history_events=small("max_history_events", 2, 8),
        max_history_bytes=small("max_history_bytes", 500, 3_000),
        max_backlog_events=small("max_backlog_events", 1, 3),
        max_backlog_bytes=small("max_backlog_bytes", 200),
        max_session_subscriptions=small("max_session_subscriptions", 1, 3),
        max_session_replies=small("max_session_replies", 1, 3),
        max_session_reply_bytes=small("max_session_reply_bytes", 500),
        back_pressure_events=small("back_pressure_events", 2, 10),
        retention_sec=small("retention_sec", 1, 10, 60),
        max_principal_finished_jobs=small("max_principal_finished_jobs", 1, 3),
        max_total_finished_jobs=small("max_total_finished_jobs", 2, 5),
        idempotency_retention_sec=small("idempotency_retention_sec", 1, 30),
        max_principal_idempotency_keys=small("max_principal_idempotency_keys", 2),
        max_total_idempotency_keys=small("max_total_idempotency_keys", 3),
        max_total_running_jobs=small("max_total_running_jobs", 3, 8),
        max_control_envelopes=small("max_control_envelopes", 16),
        max_held_messages=small("max_held_messages", 1, 2),
        max_page_jobs=small("max_page_jobs", 1, 3),
        max_pull_bytes=small("max_pull_bytes", 500),
        close_linger_sec=small("close_linger_sec", 1),
    )
