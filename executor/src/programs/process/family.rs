//! Tracks which processes belong to which program. A program's processes may leave its process group and its session,
//! clear their environment, and outlive their parents; they are still recognised by three things:
//!
//! - pictor adopts processes that lose their parent (it is a *subreaper*), so all of them descend from it;
//! - they inherit a mark: the soft limit of `RLIMIT_LOCKS`, which has had no effect since Linux 2.4. It stays with a
//!   process whatever program it executes. An environment variable has the same number;
//! - a process that has neither was started by one of the programs that ran at that time.

use crate::ground::lock;
use crate::programs::sandbox::Prepared;
use pictor_net::random;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getpid, getrlimit, kill_process,
    set_child_subreaper, setrlimit, waitpid,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{LazyLock, Mutex};
use tokio::process::Child;
use tokio::time::{Duration, Instant};

/// The variable that marks our programs and all their children.
pub(super) const MARK: &str = "PICTOR_WATCH";
/// A mark consists of a number for this pictor and one for the program, with this many digits.
const PROGRAMS: u64 = 10_000_000;
/// The interval at which terminated processes are reaped while programs run.
const CLEAR_EVERY: Duration = Duration::from_secs(1);
/// How often the list of processes is read again at once while processes come and go.
const LOOKS: usize = 5;

/// The number at the beginning of all our marks, which is different for every pictor process.
pub(super) static OURS: LazyLock<u64> = LazyLock::new(|| 100_000_000 + random() % 900_000_000);

static FAMILIES: LazyLock<Mutex<Families>> = LazyLock::new(Mutex::default);

/// The running programs.
#[derive(Debug, Default)]
struct Families {
    /// The number of programs started so far.
    count: u64,
    /// Those that have not ended, by mark.
    live: BTreeMap<u64, Family>,
    /// Processes that are known to belong to a family, by id and start time, whatever becomes of them.
    known: BTreeMap<(i32, u64), u64>,
    /// Children that are waited for elsewhere. All others that have ended are reaped here.
    awaited: BTreeSet<i32>,
    /// Families that were told to end and had not ended by then.
    leaving: Vec<Family>,
    cleared: Option<Instant>,
}

/// A program and everything that it started, directly or indirectly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    mark: u64,
    leader: i32,
    /// The start time of the leader, in the kernel's ticks.
    started: u64,
    /// Whether the leader is Bubblewrap. Its child is the first process of the namespaces, whose child is the program;
    /// these two are in a process group of their own.
    in_namespaces: bool,
}

/// A process as described in `/proc`.
#[derive(Clone, Copy, Debug)]
struct Process {
    id: i32,
    parent: i32,
    group: i32,
    session: i32,
    /// The start time, in the kernel's ticks.
    started: u64,
    ended: bool,
}

/// The members of a family to which a signal goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// All members.
    All,
    /// Those that left the program's process group.
    Strays,
}

/// Starts a child that belongs to no family, and that the caller waits for.
pub(super) fn spawn_apart(command: &mut std::process::Command) -> io::Result<std::process::Child> {
    let mut families = lock(&FAMILIES);
    let child = command.spawn()?;
    families.awaited.extend(i32::try_from(child.id()));
    Ok(child)
}

/// Starts a program as the leader of a family, in a process group of its own.
pub(super) fn spawn(program: &mut Prepared) -> io::Result<(Child, Pid, Family)> {
    // Until this one is listed, no other may be started, and none may be reaped.
    let mut families = lock(&FAMILIES);
    if families.count == 0
        && let Err(error) = set_child_subreaper(Some(getpid()))
    {
        tracing::warn!(%error, "a task's processes may outlive it where they leave its process group");
    }
    families.count += 1;
    let mark = *OURS * PROGRAMS + families.count % PROGRAMS;
    program.command.env(MARK, mark.to_string()).process_group(0).kill_on_drop(true);
    let before = getrlimit(Resource::Locks);
    // Where the limit cannot be set, the variable has to suffice.
    let marked = setrlimit(Resource::Locks, Rlimit { current: Some(mark), ..before });
    let spawned = program.start();
    if marked.is_ok() {
        let _ = setrlimit(Resource::Locks, before);
    }
    let child = spawned?;
    let id = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    let id = id.ok_or_else(|| io::Error::other("a process without a number"))?;
    let leader = id.as_raw_pid();
    let started = Process::read(leader).map_or(0, |process| process.started);
    let family = Family { mark, leader, started, in_namespaces: program.in_namespaces };
    families.live.insert(mark, family);
    families.awaited.insert(leader);
    Ok((child, id, family))
}

impl Family {
    pub(super) fn in_namespaces(self) -> bool {
        self.in_namespaces
    }

    /// The process id of the program. Where it is about to be started in namespaces, that of the process that does it.
    pub(super) fn program(self) -> i32 {
        let first = |id| {
            let mut found = None;
            children(id, &mut |child| found = found.or(Some(child)));
            found
        };
        if !self.in_namespaces {
            return self.leader;
        }
        let inner = first(self.leader);
        inner.and_then(first).or(inner).unwrap_or(self.leader)
    }

    /// The process group of the program.
    pub(super) fn group(self) -> i32 {
        if !self.in_namespaces {
            return self.leader;
        }
        Process::read(self.program()).map_or(self.leader, |program| program.group)
    }

    /// How the program ended, when the leader ended so: Bubblewrap exits as a shell does if a signal killed the program.
    pub(super) fn status(self, leader: ExitStatus) -> ExitStatus {
        let signal = leader.code().map(|code| code - 128).filter(|signal| (1..32).contains(signal));
        signal.filter(|_| self.in_namespaces).map_or(leader, ExitStatus::from_raw)
    }

    /// Records that the leader has been waited for.
    pub(super) fn leader_ended(self) {
        lock(&FAMILIES).awaited.remove(&self.leader);
    }

    /// Ends the family: nothing of it is left, or [`settle`] takes care of the rest.
    pub(super) fn over(self, gone: bool) {
        let mut families = lock(&FAMILIES);
        families.live.remove(&self.mark);
        if !gone {
            families.leaving.push(self);
        }
    }

    /// The number of live members; each of them is sent the signal.
    pub(super) fn signal(self, signal: Option<Signal>, who: Who) -> usize {
        let group = self.group();
        let mut families = lock(&FAMILIES);
        let mut ended = BTreeSet::new();
        let mut reached = 0;
        for _ in 0..LOOKS {
            let (all, mut changed) = descendants();
            let there: BTreeSet<_> = all.iter().map(Process::key).collect();
            families.known.retain(|process, _| there.contains(process));
            families.clear(&all);
            for process in all.iter().filter(|process| process.ended) {
                // Processes that it had started may have been adopted after the list was read.
                changed |= ended.insert(process.id);
            }
            let members = families.members(self, &all);
            let wanted = |process: &&Process| {
                !process.ended
                    && (who == Who::All || ![self.leader, group].contains(&process.group))
            };
            let mut refused = 0;
            let members: Vec<_> = members.into_iter().filter(wanted).collect();
            for process in &members {
                let sent = Pid::from_raw(process.id).zip(signal);
                let sent = sent.map(|(id, signal)| kill_process(id, signal));
                if sent == Some(Err(rustix::io::Errno::PERM)) {
                    refused += 1;
                    tracing::warn!(
                        process.id,
                        "a task's process belongs to another user: it stays"
                    );
                }
            }
            reached = members.len() - refused;
            if reached > 0 || !changed {
                break;
            }
        }
        reached
    }
}

/// Kills what is left of families whose members had not all ended, and waits up to `limit` for it.
pub(crate) async fn settle(limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let leaving = lock(&FAMILIES).leaving.clone();
        let gone: Vec<Family> = leaving
            .iter()
            .filter(|family| family.signal(Some(Signal::KILL), Who::All) == 0)
            .copied()
            .collect();
        lock(&FAMILIES).leaving.retain(|family| !gone.contains(family));
        if gone.len() == leaving.len() {
            return;
        }
        if Instant::now() >= deadline {
            tracing::warn!("processes of a task do not end, although they were killed");
            lock(&FAMILIES).leaving.retain(|family| !leaving.contains(family));
            return;
        }
        tokio::time::sleep(super::POLL).await;
    }
}

/// Reaps children that nobody waits for: those that a task's processes left to us.
pub(super) fn clear_ended() {
    let mut families = lock(&FAMILIES);
    let now = Instant::now();
    if families.cleared.is_none_or(|before| now - before >= CLEAR_EVERY) {
        families.cleared = Some(now);
        let mut all = Vec::new();
        children(getpid().as_raw_pid(), &mut |id| all.extend(Process::read(id)));
        families.clear(&all);
    }
}

impl Families {
    /// Reaps adopted processes that have ended. Children in our own process group were started by something that waits
    /// for them.
    fn clear(&self, all: &[Process]) {
        let me = getpid().as_raw_pid();
        let group = rustix::process::getpgrp().as_raw_pid();
        let left = |p: &&Process| {
            p.ended && p.parent == me && p.group != group && !self.awaited.contains(&p.id)
        };
        for process in all.iter().filter(left) {
            let _ = waitpid(Pid::from_raw(process.id), WaitOptions::NOHANG);
        }
    }

    /// The members of a family. `all` lists parents before their children.
    fn members<'a>(&mut self, family: Family, all: &'a [Process]) -> Vec<&'a Process> {
        let me = getpid().as_raw_pid();
        let group = rustix::process::getpgrp().as_raw_pid();
        let mut ids = BTreeSet::from([family.leader]);
        let mut members = Vec::new();
        for process in all {
            let known = self.known.get(&process.key()).copied();
            let ours = match known.or_else(|| mark_of(process.id, process.group == group)) {
                _ if process.id == family.leader => true,
                Some(mark) => mark == family.mark,
                None if process.group == group => false,
                None if process.parent == me => {
                    !self.awaited.contains(&process.id)
                        && (process.group == family.leader
                            || process.session == family.leader
                            || self.must_be(family, process.started))
                }
                None => [process.parent, process.group, process.session]
                    .iter()
                    .any(|id| ids.contains(id)),
            };
            if ours {
                ids.insert(process.id);
                self.known.insert(process.key(), family.mark);
                members.push(process);
            }
        }
        members
    }

    /// Whether a process that was started then and carries no mark can only belong to this family.
    fn must_be(&self, family: Family, started: u64) -> bool {
        let others = || self.live.iter().filter(|(mark, _)| **mark != family.mark);
        family.started <= started && others().all(|(_, other)| other.started > started)
    }
}

/// The mark of a process, if it is one of ours. The limit may have been inherited by something that we started for
/// ourselves at the same moment.
fn mark_of(id: i32, in_our_group: bool) -> Option<u64> {
    let of_ours = |mark: &u64| mark / PROGRAMS == *OURS;
    let limit = || {
        let limits = std::fs::read_to_string(format!("/proc/{id}/limits")).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
        line.split_whitespace().next()?.parse().ok().filter(of_ours)
    };
    let variable = || {
        let environment = std::fs::read(format!("/proc/{id}/environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let value = variables.find_map(|v| v.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok()?.parse().ok().filter(of_ours)
    };
    (!in_our_group).then(limit).flatten().or_else(variable)
}

/// All our descendants, parents first, and whether some ended while the list was read.
fn descendants() -> (Vec<Process>, bool) {
    let (mut all, mut changed, mut next) = (Vec::new(), false, 0);
    let mut seen = BTreeSet::new();
    let mut parent = getpid().as_raw_pid();
    loop {
        children(parent, &mut |id| {
            if seen.insert(id) {
                match Process::read(id) {
                    Some(process) => all.push(process),
                    None => changed = true,
                }
            }
        });
        let Some(process) = all.get(next) else { return (all, changed) };
        parent = process.id;
        next += 1;
    }
}

/// The children of a process, which are those of each of its threads.
fn children(id: i32, found: &mut dyn FnMut(i32)) {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    for thread in threads {
        let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        list.split_whitespace().filter_map(|child| child.parse().ok()).for_each(&mut *found);
    }
}

impl Process {
    fn key(&self) -> (i32, u64) {
        (self.id, self.started)
    }

    fn read(id: i32) -> Option<Self> {
        let stat = std::fs::read(Path::new("/proc").join(id.to_string()).join("stat")).ok()?;
        Self::parse(id, &String::from_utf8_lossy(&stat))
    }

    /// The name, in parentheses, may contain anything.
    fn parse(id: i32, stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field)?.parse().ok();
        Some(Self {
            id,
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            started: fields.get(19)?.parse().ok()?,
            ended: matches!(*fields.first()?, "Z" | "X"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a ) Z 9 (b) S 5 6 4 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1234 9 9";
        let process = Process::parse(7, stat).unwrap();
        assert_eq!((process.parent, process.group, process.session), (5, 6, 4));
        assert_eq!((process.started, process.ended), (1234, false));
        assert!(
            Process::parse(7, "7 (a) Z 5 6 4 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9").unwrap().ended
        );
        assert!(Process::parse(7, "7 (a) S 5").is_none());
    }

    #[test]
    fn who_has_no_mark_belongs_to_the_only_one_who_can_have_started_it() {
        let one = Family { mark: 1, leader: 10, started: 100, in_namespaces: false };
        let two = Family { mark: 2, leader: 20, started: 200, in_namespaces: false };
        let live = BTreeMap::from([(1, one), (2, two)]);
        let families = Families { live, ..Families::default() };
        assert!(families.must_be(one, 150) && !families.must_be(two, 150));
        assert!(!families.must_be(one, 250) && !families.must_be(two, 250));
        assert!(!families.must_be(one, 50));
    }
}
