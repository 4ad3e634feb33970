"""One run: clones on machines, a scheduler that decides what happens next, and the healing at the end.

`ACTIONS` is the table of what can happen, with weights. A seed draws its own temper as well: how many clones, how often
processes die, disks fill, clocks jump. New kinds of trouble are new rows of the table.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random
from unittest import mock

import msgpack

from replica import compact, config, copies, log, materialise, rejoin
from replica.bridge import Bridge
from replica.clone import Clone
from replica.config import CADENCES
from replica.errors import Fork, PeerError, ReplicaError
from replica.keys import Identity
from replica.places import CONFIG
from tests.simulation import backups
from tests.simulation.hardware import Died, Hardware, Machine
from tests.simulation.link import Link
from tests.simulation.people import DOCUMENTS, WITH_CADENCE, People, replica_toml
from transport.session import InStep, Took

NAMES = ("alice", "bob", "carol", "dave", "erin")
START = 1_750_000_000_000  # milliseconds since 1970
DAY = 86_400_000
SOON = 400  # milliseconds after which a node looks again at what it did not believe at once
ROUNDS = 40  # of healing, after which something does not come to rest
# Milliseconds that a round takes: the later half of them is long enough for what a clone waits for by its clock, as for
# the one that began to bring it back (rejoin.PATIENCE). Short ones first: nearly everything is to end without that.
ROUND, LONG_ROUND = 1_000, 10_000


class Finding(AssertionError):
    """Something that must hold does not."""


class Process:
    """A running node of one clone, without its event loop: what it would do next is an action of the scheduler."""

    def __init__(self, name: str, clone: Clone, machine: Machine):
        self.name, self.clone, self.machine = name, clone, machine
        self.bridge = Bridge(clone, machine.now_ms)
        self.version = clone.store.version()
        self.looks_again_at: int | None = None
        self.wants_delivery = False
        self.changed = False
        clone.on_change = self._on_change

    def _on_change(self) -> None:
        self.changed = self.wants_delivery = True

    @property
    def has_arrived(self) -> bool:
        """Whether the workspace is here: a newcomer's first sync comes before anything else."""
        return self.clone.log.author(self.clone.identity.id) is not None

    @property
    def can_write(self) -> bool:
        """Whether it is not coming back into its workspace just now."""
        return self.has_arrived and rejoin.under_way(self.clone.store) is None

    @property
    def trusted(self) -> set[bytes]:
        """Whose certificates it accepts, as a node does."""
        members = {member["id"] for member in self.clone.members()} | rejoin.acquaintances(self.clone.store).keys()
        inviter = self.clone.store.meta("inviter")
        return members if self.clone.identity.id in members or not inviter else members | {inviter}


class Temper:
    """How bad this run is."""

    def __init__(self, random: Random):
        self.clones = random.choice((3, 3, 4, 4, 5))
        self.steps = random.randrange(30, 90)
        self.deaths = random.choice((0, 0.03, 0.12))
        self.saves_within = random.choice((0, 0, 0.1))  # somebody saves in the middle of another operation
        self.disks = random.choice((0, 0, 1))
        self.clocks = random.choice((0, 1))
        self.members = random.choice((0, 1))
        self.rules = random.choice((0, 0, 1))
        self.pace = random.choice(((5,), (5, 50, 400), (5, 400, 5_000, 3_600_000)))  # milliseconds between steps
        self.batch = random.choice((1, 3, 500))  # changes in a message
        self.slices = random.random() < 0.5  # bytes arrive a few at a time
        self.folds = random.choice((0, 0, 1))  # changes are folded as soon as all have them
        self.away = random.choice((0, 0, 0, 20))  # days after which a silent member is not waited for
        self.backups = random.choice((0, 0, 1))
        # Drawn apart, so that runs without them are what they were.
        apart = Random(random.getstate()[1][0])
        self.cadences = apart.choice((False, False, True))  # some documents and their files meet now and then
        self.secrets = apart.choice((0, 0, 0, 1))  # more entries of level 0 amid shared ones, and edits around them


class Simulation:
    """The run of one seed. `run` raises Finding, or what the program itself raised where it should not."""

    def __init__(self, seed: int):
        self.seed, self.random = seed, Random(seed)
        self.temper = Temper(self.random)
        self.hardware = Hardware(self.random, START, self.trace)
        self.people = People(self)
        self.machines: dict[str, Machine] = {}
        self.processes: dict[str, Process] = {}
        self.links: list[Link] = []
        self.parted: set[frozenset[str]] = set()  # pairs that cannot reach each other
        self.removed: set[str] = set()
        self.forgets = False  # somebody has folded, or was restored: what was taken away need not be in the history
        self.forked = False  # two stores have gone on from one: members may contradict themselves
        self.backups: dict[str, backups.Backup] = {}
        self.restored: set[str] = set()
        self.overwritten: dict[str, set[str]] = {}  # a mark that a restore took from its owner -> who had it then
        self.twins: dict[str, str] = {}  # a clone that was opened twice -> which one it was
        self.frames: list[bytes] = []  # all that went over the wire
        self.history: list[str] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._verbose = False

    # --- the run

    def run(self) -> str:
        """Everything; returns the hash of all that happened."""
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="replica-simulation-", dir=memory if memory.is_dir() else None))
        patches = [
            mock.patch.object(log, "BATCH_CHANGES", self.temper.batch),
            mock.patch.object(materialise, "TEXTS_IN_MEMORY", 2),
            mock.patch.object(config, "load", cache(config.load)),  # each process would read the same few texts
            mock.patch.object(Identity, "new", lambda: Identity(self.hardware._entropy.randbytes(32))),
        ]
        try:
            with self.hardware:
                for patch in patches:
                    patch.start()
                try:
                    self._everything()
                finally:
                    for patch in patches:
                        patch.stop()
                    for process in self.processes.values():
                        process.clone.on_change = None
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        return self._digest.hexdigest()

    def _everything(self) -> None:
        from tests.simulation.oracle import Oracle

        self._begin()
        actions, weights = zip(*self._actions(), strict=True)
        for _ in range(self.temper.steps):
            self.hardware.now += self.random.choice(self.temper.pace)
            self.random.choices(actions, weights)[0]()
            self._drop_links()
        self.heal()
        Oracle(self).check()

    def trace(self, what: str) -> None:
        """Note what happens: two runs of a seed have the same notes."""
        self._digest.update(what.encode() + b"\n")
        if self._verbose:
            place = str(self.folder)
            print(f"{self.hardware.now - START:>10} {what.replace(place, '')}")

    def wiretap(self, sender: str, frame: bytes) -> None:
        self.trace(f"{sender} sends {hashlib.blake2b(frame, digest_size=8).hexdigest()}")
        self.frames.append(frame)

    def _actions(self) -> list[tuple[Callable[[], None], float]]:
        """What can happen, and how often."""
        t = self.temper
        return [
            (self._save, 26), (self._finish_saving, 3), (self._bridge, 22), (self._command, 10), (self._decide, 2),
            (self._meet, 8), (self._deliver, 40), (self._tell, 8), (self._settle, 4),
            (self._cut, 4), (self._part, 2), (self._reunite, 3),
            (self._kill, 40 * t.deaths), (self._start, 3 + 20 * t.deaths),
            (self._fill_disk, 2 * t.disks), (self._free_disk, 3 * t.disks), (self._jump, 3 * t.clocks),
            (self._join, 1.5 * t.members), (self._remove, 0.7 * t.members * (not t.backups)),
            (self._rules, 2 * t.rules), (self._compact, 10 * t.folds),
            (self._back_up, 6 * t.backups), (self._restore, 6 * t.backups), (self._twin, t.backups),
            (self._whisper, 35 * t.secrets),
        ]  # fmt: skip

    def _begin(self) -> None:
        """The first clones, with something in them, all met."""
        for name in NAMES[: self.temper.clones]:
            self._make(name)
        founder = self.machines[NAMES[0]]
        if self.temper.cadences:
            self.people.rules["cadences"] = tuple(self.random.choices(CADENCES, k=len(WITH_CADENCE)))
        if self.temper.folds:
            self.people.rules["history"] = f"[history]\ndays = 0\naway = {self.temper.away}\n"
        (founder.root / CONFIG).write_text(replica_toml(**self.people.rules))
        founder.saved(founder.root / CONFIG)
        self._share()
        for path in self.random.sample(sorted(DOCUMENTS), 4):
            if self.random.random() < 0.7:
                machine = self.random.choice(list(self.machines.values()))
                self.people._write(machine, path, self.people._edited(machine, path, b"") or b"")
        self.people.finish_saving()
        self._share()

    def _share(self) -> None:
        for process in list(self.processes.values()):
            self._run_bridge(process, calm=True)
            self._exchange()

    def _make(self, name: str) -> None:
        root = self.folder / name
        machine = self.machines[name] = self.hardware.machine(name, root)
        able = [p.name for p in self._running(member=True) if p.can_write and not p.machine.full]
        with self.hardware.on(machine):
            if not able:
                self._runs(machine, Clone.create(root, name, "team", _certificate, now_ms=machine.now_ms))
                return
            by, identity = self.random.choice(able), Identity.new()
        self.operate(by, lambda: self.processes[by].clone.admit(identity.public, _certificate(b"", name), name),
                     calm=True)  # fmt: skip
        with self.hardware.on(machine):
            clone = Clone.adopt(
                root, identity, self.processes[by].clone.workspace, name, inviter=self.processes[by].clone.identity.id,
                now_ms=machine.now_ms,
            )  # fmt: skip
            self._runs(machine, clone)
        self._connect(by, name)
        self._exchange(only=(by, name))

    def _runs(self, machine: Machine, clone: Clone) -> None:
        machine.starts += 1
        self.processes[machine.name] = Process(machine.name, clone, machine)

    # --- operations on a machine

    def operate(self, name: str, work: Callable[[], object], *, calm: bool = False, command: bool = False):
        """Let the program do something on a machine. None: it died on the way, or found the disk full.

        `command`: in a process of its own, beside the node.
        """
        machine = self.machines[name]
        machine.was_full = False
        before = len(machine.connections)
        if not calm:
            self._lay_fuse(machine)
        try:
            with self.hardware.on(machine):
                return work()
        except Died:
            power_cut = not command and self.random.random() < 0.4
            self.trace(f"{name} dies{' of a power cut' if power_cut else ''}")
            if command and name in self.processes:
                machine.bury(False, since=before)
            else:
                self._bury(name, power_cut)
        except PeerError:
            raise
        except (ReplicaError, OSError) as error:
            if not machine.was_full:
                raise Finding(f"{name}: {type(error).__name__}: {error}") from error
            self.trace(f"{name} finds its disk full")
        finally:
            machine.fuse = machine.spark = None
            self._after(name)
        return None

    def _lay_fuse(self, machine: Machine) -> None:
        if self.random.random() < self.temper.deaths:
            machine.fuse = self.random.choice((1, 2, 3, 5, 8, 12, 20, 30))
        elif self.random.random() < self.temper.saves_within and not machine.full:
            machine.fuse, machine.spark = self.random.randrange(1, 15), lambda _: self._save_within(machine)

    def _save_within(self, machine: Machine) -> None:
        """Somebody saves a file on this machine, now of all times."""
        machine.spark = None
        self.hardware.current = None
        try:
            self.people.save(machine)
        finally:
            self.hardware.current = machine

    def _after(self, name: str) -> None:
        process = self.processes.get(name)
        if process is not None and process.changed:
            process.changed = False
            for link in self.links:
                for end in link.ends:
                    end.owed = end.owed or end.process is process

    def _bury(self, name: str, power_cut: bool) -> None:
        self.processes.pop(name, None)
        for link in self.links:
            if link.touches(name):
                link.cut()
        self._drop_links()
        self.machines[name].bury(power_cut)

    def _running(self, *, member: bool = False) -> list[Process]:
        return [p for n, p in sorted(self.processes.items()) if not member or n not in self.removed]

    # --- files and commands

    def _save(self) -> None:
        self.people.save(self.random.choice(list(self.machines.values())))

    def _whisper(self) -> None:
        if self.random.random() < 0.5:
            self.people.save_beside_secrets(self.random.choice(list(self.machines.values())))
        elif (name := self._somebody()) is not None:
            self.command(name, self.people.whisper)

    def _finish_saving(self) -> None:
        self.people.finish_saving(self.random.choice(list(self.machines.values())), most=1)

    def _rules(self) -> None:
        self.people.change_rules(self.machines[NAMES[0]])

    def _bridge(self) -> None:
        """A node looks at its folder, or at the files that its watch has named, or writes what has come."""
        running = [process for process in self._running() if process.has_arrived]
        if running:
            self._run_bridge(self.random.choice(running))

    def _run_bridge(self, process: Process, *, calm: bool = False) -> bool:
        """Whether there was anything to do."""
        bridge, how = process.bridge, "run" if calm else self.random.choice(("run", "run", "deliver", "collect"))
        again = process.looks_again_at is not None and self.hardware.now >= process.looks_again_at
        if how == "deliver" and not again:
            work = bridge.deliver
        elif how == "collect" and not again:
            names = self.random.sample(sorted(DOCUMENTS), 3)
            work = lambda: bridge.collect(names)  # noqa: E731
        else:
            work = lambda: bridge.run(**self._occasion(calm))  # noqa: E731
        self.trace(f"{process.name} bridge {how}")
        report = self.operate(process.name, work, calm=calm)
        if report is None:
            return True
        with self.hardware.on(process.machine):
            self.people.heard(process.clone, report)
        process.looks_again_at = self.hardware.now + SOON if report.look_again else None
        return not report.quiet or report.look_again

    def _occasion(self, calm: bool) -> dict[str, bool]:
        """Why a look is taken: the beginning of a session is one reason, its end another, and the node has its own."""
        how = "save" if calm else self.random.choice(("", "start", "save")) if self.temper.cadences else ""
        return {"session": how == "start", "every": how == "save"}

    def _command(self) -> None:
        people = self.people
        name = self._somebody()
        if name is None:
            return
        what = self.random.choices((people.add, people.delete, people.restore, people.resolve), (70, 4, 6, 20))[0]
        self.command(name, what)

    def _decide(self) -> None:
        if (name := self._somebody()) is not None:
            self.command(name, self.people.decide_held)

    def _somebody(self) -> str | None:
        """Whose clone may take a command: it runs and can write, or does not run."""
        names = [name for name in self.machines if name not in self.processes or self.processes[name].can_write]
        return self.random.choice(names) if names else None

    def command(self, name: str, what: Callable[[Machine, Clone], None], *, calm: bool = False) -> None:
        """By the node, or by a process of its own, as the command line has it."""
        machine, process = self.machines[name], self.processes.get(name)
        self.trace(f"{name} {what.__name__}")
        if process is not None and self.random.random() < 0.5:
            process.clone.log.refresh()
            self.operate(name, lambda: what(machine, process.clone), calm=calm)
            return

        def work() -> None:
            with _opened(machine) as clone:
                if clone.log.author(clone.identity.id) is not None and rejoin.under_way(clone.store) is None:
                    what(machine, clone)

        self.operate(name, work, calm=calm, command=True)
        if process is not None and name in self.processes:
            self._poll(process)

    def _poll(self, process: Process) -> None:
        """A node notices what other processes of its clone have committed."""
        version = process.clone.store.version()
        if version != process.version:
            process.version = version
            process.clone.log.refresh()
            process.changed = process.wants_delivery = True
            self._after(process.name)

    # --- the network

    def _meet(self) -> None:
        pairs = [
            (one.name, other.name) for one, other in combinations(self._running(), 2)
            if frozenset((one.name, other.name)) not in self.parted
            and sum(link.between(one.name, other.name) for link in self.links) < 2
        ]  # fmt: skip
        if pairs:
            self._connect(*self.random.choice(pairs))

    def _connect(self, one: str, other: str, *, calm: bool = False) -> None:
        """`one` calls; if that fails, it is called."""
        for a, b in ((one, other), (other, one)):
            if a in self.processes and b in self.processes and self._call(self.processes[a], self.processes[b], calm):
                return

    def _call(self, a: Process, b: Process, calm: bool) -> bool:
        """Whether a connection is made. Who calls shows the newest of its keys that the other knows."""
        id = b.clone.identity.id
        if a.clone.identity.id == id:
            if a.can_write:
                self.trace(f"{a.name} parts from {b.name}")
                self.operate(a.name, lambda: copies.part(a.clone, _certificate), calm=calm)
            return False
        own = next((one.id for one in copies.identities(a.clone) if one.id in b.trusted), None)
        id = next((one.id for one in copies.identities(b.clone) if one.id in a.trusted), None)
        if own is None or id is None:
            return False
        self.trace(f"{a.name} meets {b.name}")
        for link in self.links:  # of two connections of one peer, the later one counts
            for end, far in (link.ends, link.ends[::-1]):
                if end.process is b and end.session._peer == own and far.process is not a:
                    link.cut()
        link = Link(a, b, own, id, self.wiretap)
        self.links.append(link)
        for side in (0, 1):
            self._at_end(link, side, lambda side=side: link.open(side), calm=calm)
        return True

    def _at_end(self, link: Link, side: int, work: Callable[[], object], *, calm: bool = False) -> None:
        end = link.ends[side]
        if not link.is_open:
            return
        self.operate(end.process.name, work, calm=calm)
        if link.blamed is not None and not self._is_split(link.blamed):
            raise Finding(f"an honest peer was blamed: {type(link.blamed).__name__}: {link.blamed}") from link.blamed
        events, process = list(end.events), end.process
        end.events.clear()
        if any(isinstance(event, Took) for event in events):
            process.wants_delivery = True
            self._come_back(process, calm=calm)
        if any(isinstance(event, InStep) for event in events) and self.processes.get(process.name) is process:
            self._note(process, link, side, calm=calm)
            if end.own != process.clone.identity.id:  # it has the new identity now: they meet again under that
                link.cut()

    def _is_split(self, fault: PeerError) -> bool:
        """Whether two stores that have gone on from one are told apart by this: both have signed the same number."""
        return self.forked and (isinstance(fault, Fork) or "was refused before" in str(fault))

    def _come_back(self, process: Process, *, calm: bool = False) -> None:
        """Everything has come that was missing: what is only this clone's own is written once more."""
        if self.processes.get(process.name) is process and rejoin.ready(process.clone):
            self.trace(f"{process.name} comes back")
            self.operate(process.name, lambda: rejoin.finish(process.clone, _certificate), calm=calm)

    def _note(self, process: Process, link: Link, side: int, *, calm: bool = False) -> None:
        """Remember what a peer says that it holds."""
        session = link.ends[side].session

        def work() -> None:
            with process.clone.transaction():
                process.clone.store.execute(
                    "INSERT INTO peers(id, seen, vector) VALUES(?,?,?) ON CONFLICT(id)"
                    " DO UPDATE SET seen=excluded.seen, vector=excluded.vector",
                    (session._peer, process.machine.now_ms(), msgpack.packb(session.peer_vector)),
                )

        if session.peer_vector:
            self.operate(process.name, work, calm=calm)

    def _deliver(self) -> None:
        for _ in range(self.random.randrange(1, 6)):
            busy = [(link, side) for link in self.links for side in link.busy]
            if not busy:
                return
            link, side = self.random.choice(busy)
            size = self.random.choice((1, 40, 300, None)) if self.temper.slices else None
            self._at_end(link, side, lambda link=link, side=side, size=size: link.deliver(side, size))
            self._drop_links()
            if self.random.random() < 0.7:
                self._tell()

    def _tell(self, *, calm: bool = False) -> bool:
        """Sessions hear that their store has grown; some of them late."""
        told = False
        for link in list(self.links):
            for side in (0, 1):
                if link.ends[side].owed and link.is_open and (calm or self.random.random() < 0.8):
                    told = True
                    self._at_end(link, side, lambda link=link, side=side: link.tell(side), calm=calm)
        return told

    def _settle(self, *, calm: bool = False) -> None:
        for link in list(self.links):
            for side in (0, 1):
                self._at_end(link, side, lambda link=link, side=side: link.settle(side), calm=calm)

    def _cut(self) -> None:
        if self.links:
            link = self.random.choice(self.links)
            self.trace("a connection is cut")
            if link.busy and self.random.random() < 0.5:  # in the middle of a frame
                side = self.random.choice(link.busy)
                size = self.random.randrange(len(link.ends[1 - side].sent))
                self._at_end(link, side, lambda: link.deliver(side, size))
            link.cut()

    def _drop_links(self) -> None:
        self.links = [link for link in self.links if not link.is_over]

    def _part(self) -> None:
        """Some clones cannot reach the others any more."""
        names = list(self.machines)
        island = set(self.random.sample(names, self.random.randrange(1, len(names))))
        self.parted |= {frozenset(pair) for pair in combinations(names, 2) if len(island & set(pair)) == 1}
        for link in self.links:
            if any(link.between(*sorted(pair)) for pair in self.parted):
                link.cut()

    def _reunite(self) -> None:
        self.parted.clear()

    # --- folding, backups, copies

    def _compact(self) -> None:
        """A node notes what it has heard of its peers, and folds what all are known to hold."""
        running = [process for process in self._running(member=True) if process.can_write and not process.clone.removed]
        if not running:
            return
        process = self.random.choice(running)
        for link in self.links:
            for side in (0, 1):
                if link.ends[side].process is process and link.is_open and process.name in self.processes:
                    self._note(process, link, side)
        if self.processes.get(process.name) is not process:
            return
        self.trace(f"{process.name} folds")
        done = self.operate(process.name, lambda: compact.compact(process.clone))
        self.forgets = True
        if done is not None:
            self.trace(f"{done.folded} changes are folded, {done.documents} documents, retired {done.retired}")

    def _back_up(self) -> None:
        able = [p for p in self._running(member=True) if p.has_arrived and not p.machine.full]
        if able:
            process = self.random.choice(able)
            self.trace(f"{process.name} is backed up")
            self.backups[process.name] = backups.take(self, process)

    def _restore(self) -> None:
        """A backup is put back over today's folder, and work goes on in it."""
        if not self.backups:
            return
        name = self.random.choice(sorted(self.backups))
        what = self.random.choices((backups.folder, backups.files, backups.store), (60, 20, 20))[0]
        machine = self.machines[name]
        if machine.full:
            return
        self.trace(f"{name} is restored: {what.__name__}")
        self._bury(name, False)
        what(self, name)
        for _ in range(self.random.randrange(3)):
            self.people.save(machine)
        if self.random.random() < 0.7:
            self._start(name)

    def _twin(self) -> None:
        """A machine's disk is copied, and both run: each takes itself for the one that was moved."""
        able = [p for p in self._running(member=True) if p.has_arrived and not p.machine.full]
        if not able or self.twins:
            return
        name = self.random.choice(able).name
        self.trace(f"{name} runs twice")
        self.people.mend_rules(self.machines[NAMES[0]])
        self.people.finish_saving(self.machines[name])
        self._bury(name, False)
        self.forked = self.forgets = True
        other = f"{name}-twin"
        self.twins[other] = name
        self.machines[other] = backups.split(self, name, other)
        for one in (name, other):
            self._start(one)

    # --- machines

    def _kill(self) -> None:
        if running := self._running():
            name = self.random.choice(running).name
            self.trace(f"{name} is killed")
            self._bury(name, self.random.random() < 0.4)

    def _start(self, name: str | None = None, *, calm: bool = False) -> None:
        down = [n for n in self.machines if n not in self.processes] if name is None else [name]
        if not down:
            return
        machine = self.machines[self.random.choice(down)]
        self.trace(f"{machine.name} starts")

        def work() -> None:
            self._runs(machine, Clone.open(machine.root, now_ms=machine.now_ms))

        self.operate(machine.name, work, calm=calm)
        process = self.processes.get(machine.name)
        if process is not None:
            self._come_back(process, calm=calm)
            process = self.processes.get(machine.name)
        if process is not None and process.has_arrived:
            self._run_bridge(process, calm=calm)

    def _fill_disk(self) -> None:
        self.random.choice(list(self.machines.values())).full = True

    def _free_disk(self) -> None:
        for machine in self.machines.values():
            machine.full = False

    def _jump(self) -> None:
        machine = self.random.choice(list(self.machines.values()))
        machine.skew = self.random.choice((0, 500, -500, 3 * DAY, -3 * DAY, 40 * DAY, -400 * DAY))

    # --- members

    def _join(self) -> None:
        name = next((name for name in NAMES if name not in self.machines), None)
        able = [p for p in self._running(member=True) if p.can_write and not p.machine.full]
        if name is None or not able:
            return
        self.trace(f"{name} joins")
        root = self.folder / name
        root.mkdir()
        if self.random.random() < 0.6:  # with files that are there already, some of them somebody else's
            machine = self.hardware.machine(name, root)
            self.machines[name] = machine
            for _ in range(3):
                self.people.save(machine)
            self.people.finish_saving(machine)
            if self.random.random() < 0.3:
                (root / CONFIG).write_text("# my own rules\n")
            del self.machines[name]
        self._make(name)

    def _remove(self) -> None:
        members = [name for name in self.machines if name not in self.removed]
        able = [p for p in self._running(member=True) if p.can_write]
        target = self.random.choice(members)
        by = [p for p in able if p.name != target and not p.clone.removed]
        if target == NAMES[0] or not by or len(members) < 3 or self.removed:
            return
        process = self.random.choice(by)
        id = backups.identity_of(self.machines[target])
        known = process.clone.log.author(id)
        if known is None or known.removed:
            return
        self.trace(f"{process.name} removes {target}")
        self.removed.add(target)
        if self.operate(process.name, lambda: process.clone.remove(id.hex())) is None:
            self.removed.discard(target)
            self._maybe_removed = target

    # --- the healing

    def heal(self) -> None:
        """Disks have room, everybody runs and reaches everybody, editors finish: until nothing moves."""
        self.trace("healing")
        self.parted.clear()
        for machine in self.machines.values():
            machine.full = False
        self.people.finish_saving()
        self.people.mend_rules(self.machines[NAMES[0]])
        for name in self.machines:
            if name not in self.processes:
                self._start(name, calm=True)
        self._notice_removals()
        for at in range(ROUNDS):
            self.hardware.now += ROUND if at < ROUNDS // 2 else LONG_ROUND
            if not self._heal_once():
                return
            if at >= ROUNDS // 2:
                self._notice_strangers()
        raise Finding("the clones do not come to rest")

    def _notice_removals(self) -> None:
        """A removal whose process died may have been stored all the same."""
        for process in self.processes.values():
            for other in self.processes.values():
                log, id = process.clone.log, other.clone.identity.id
                if log.author(id) is not None and log.author(id).removed and not log.may_return(id):
                    self.removed.add(other.name)

    def _notice_strangers(self) -> None:
        """Who was let in by what nobody else hears of has to join again, as do those it has let in itself.

        A restore undid that admission before a third heard of it, or who let it in was being removed meanwhile and is
        not heard by anybody now. So it knows the others, and none of them knows it. Who knows nobody is not meant, nor
        what is so only until somebody has come back: that a clone is cut off in any other way is a fault.
        """
        members = self._running(member=True)
        is_settled = not any(rejoin.under_way(process.clone.store) for process in members)
        if not is_settled or not (self.forked or self.removed):
            return
        knows = {
            one.name: {
                other.name for other in members
                if one.trusted & {identity.id for identity in copies.identities(other.clone)}
            }
            for one in members
        }  # fmt: skip
        everybody = set(knows)
        circles = [circle for name in sorted(knows) if (circle := _closed({name}, knows)) != everybody]
        home = max(circles, key=len, default=everybody)
        if 2 * len(home) < len(everybody):
            return
        for name in sorted(everybody - home):
            self.trace(f"nobody knows {name}")
            self.removed.add(name)
            backups.stranded(self)

    def _heal_once(self) -> bool:
        """One round of everything; whether anything moved."""
        moved = False
        for process in self._running():
            if process.has_arrived:
                moved |= self._run_bridge(process, calm=True)
                with self.hardware.on(process.machine):
                    is_holding = bool(process.bridge.held())
                if is_holding:
                    moved = True
                    self.command(process.name, self.people.decide_held, calm=True)
                    self._poll(process)
            moved |= rejoin.under_way(process.clone.store) is not None
        for one, other in combinations(self._running(), 2):
            if not any(link.between(one.name, other.name) for link in self.links):
                self._connect(one.name, other.name, calm=True)
        moved |= self._exchange()
        self._look_back()
        self._notice_removals()
        members = self._running(member=True)
        vectors = [process.clone.vector() for process in members]
        return moved or any(vector != vectors[0] for vector in vectors)

    def _look_back(self) -> None:
        """What a node does every few seconds: who began to bring a clone back need not be the one to end it."""
        for link in list(self.links):
            for side, end in enumerate(link.ends):
                self._at_end(link, side, end.session.look_back, calm=True)
        for process in self._running():
            self._come_back(process, calm=True)

    def _exchange(self, only: tuple[str, str] | None = None) -> bool:
        """Deliver until nothing is on its way, the digests too."""
        moved = False
        chosen = [link for link in self.links if only is None or link.between(*only)]
        for _ in range(10_000):
            busy = [(link, side) for link in chosen for side in link.busy]
            for link, side in busy:
                self._at_end(link, side, lambda link=link, side=side: link.deliver(side), calm=True)
            self._drop_links()
            moved |= self._tell(calm=True)
            if not busy:
                self._settle(calm=True)
                if not any(link.busy for link in chosen):
                    return moved
        raise Finding("messages without end")


def _closed(names: set[str], knows: dict[str, set[str]]) -> set[str]:
    """These, whom they know, and so on."""
    while (more := names.union(*(knows[name] for name in names))) != names:
        names = more
    return names


@contextmanager
def _opened(machine: Machine) -> Iterator[Clone]:
    machine.starts += 1
    clone = Clone.open(machine.root, now_ms=machine.now_ms)
    try:
        yield clone
    finally:
        if not machine.gone:
            clone.close()


def _certificate(_private: bytes, name: str) -> bytes:
    """Stands for a certificate: the log carries it and never looks inside."""
    return f"certificate of {name}".encode()
