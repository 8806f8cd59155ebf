//! The workers by what they can do, and their free capacity. Workers that can do the same classes of steps are one
//! pool, so that the best worker for a class is the best of the few pools that can do it, however many workers there
//! are.
//!
//! **Invariant:** a worker is in the sets of its pool exactly if it is `listed`, that is if it accepts tasks and has
//! been heard of within a lease. The oracle's tests compare every choice with a search through all workers.

use super::Worker;
use super::class::Class;
use pictor_tasks::message::WorkerId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// About how many classes without a run, and pools without a worker, are kept.
const UNUSED: usize = 64;

/// The number of a class of steps.
pub(crate) type ClassId = u32;
/// The number of a pool of workers.
pub(crate) type PoolId = u32;

/// All classes and pools.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    classes: Vec<ClassPools>,
    class_ids: BTreeMap<Arc<Class>, ClassId>,
    all: Vec<Pool>,
    pool_ids: HashMap<Vec<ClassId>, PoolId>,
    unused: usize,
}

#[derive(Debug)]
struct ClassPools {
    class: Arc<Class>,
    /// The number of steps of runs in memory that are of this class.
    users: usize,
    /// The pools whose workers can do it.
    pools: Vec<PoolId>,
}

/// Workers that can do the same classes.
#[derive(Debug, Default)]
struct Pool {
    classes: Vec<ClassId>,
    members: u32,
    /// The number of listed workers, and of their slots.
    listed: u32,
    slots: u32,
    all: Capacity,
    /// Those that have loaded a scene or a network, by its digest or name.
    warm: HashMap<Arc<str>, Capacity>,
    awaited: bool,
}

/// Listed workers that can take a bundle, ordered by load.
#[derive(Debug, Default)]
struct Capacity {
    /// Those with a free slot.
    free: BTreeSet<(u32, WorkerId)>,
    /// Those whose slots are all taken, and that have nothing queued.
    full: BTreeSet<(u32, WorkerId)>,
}

impl Capacity {
    fn of(&mut self, worker: &Worker) -> Option<&mut BTreeSet<(u32, WorkerId)>> {
        match worker.load.cmp(&worker.inventory.slots) {
            std::cmp::Ordering::Less => Some(&mut self.free),
            std::cmp::Ordering::Equal => Some(&mut self.full),
            std::cmp::Ordering::Greater => None,
        }
    }

    fn is_empty(&self) -> bool {
        self.free.is_empty() && self.full.is_empty()
    }
}

/// A search for a worker.
pub(crate) struct Search<'a> {
    pub(crate) class: ClassId,
    /// What the task would load.
    pub(crate) loads: Option<&'a str>,
    /// Whether the task may be queued on a worker whose slots are all taken.
    pub(crate) ahead: bool,
    /// The number of failures of the run, by worker.
    pub(crate) failures: &'a HashMap<WorkerId, u32>,
}

impl Pools {
    /// The number of a class; a new one is looked for among the workers.
    pub(crate) fn class(
        &mut self,
        class: Class,
        workers: &mut BTreeMap<WorkerId, Worker>,
    ) -> ClassId {
        if let Some(id) = self.class_ids.get(&class) {
            return *id;
        }
        let id = number(self.classes.len());
        let class = Arc::new(class);
        self.class_ids.insert(class.clone(), id);
        self.unused += 1;
        self.classes.push(ClassPools { class: class.clone(), users: 0, pools: Vec::new() });
        let mut able: BTreeMap<PoolId, Vec<WorkerId>> = BTreeMap::new();
        for (worker, known) in workers.iter().filter(|(_, known)| class.lacks(known).is_none()) {
            able.entry(known.pool).or_default().push(*worker);
        }
        for (old, able) in able {
            let classes = [&*self.all[old as usize].classes, &[id]].concat();
            if able.len() == self.all[old as usize].members as usize {
                let before = std::mem::replace(&mut self.all[old as usize].classes, classes);
                self.pool_ids.remove(&before);
                self.pool_ids.insert(self.all[old as usize].classes.clone(), old);
                self.classes[id as usize].pools.push(old);
                continue;
            }
            let new = self.pool(classes);
            self.all[new as usize].awaited = self.all[old as usize].awaited;
            for worker in able {
                let known = workers.get_mut(&worker).expect("found above");
                self.withdraw(worker, known);
                self.all[old as usize].members -= 1;
                known.pool = new;
                self.all[new as usize].members += 1;
                self.offer(worker, known);
            }
        }
        id
    }

    /// The number of the same class on workers with at least this much memory on one GPU.
    pub(crate) fn class_with_vram(
        &mut self,
        class: ClassId,
        vram_bytes: u64,
        workers: &mut BTreeMap<WorkerId, Worker>,
    ) -> ClassId {
        let larger = self.classes[class as usize].class.with_vram(vram_bytes);
        self.class(larger, workers)
    }

    fn pool(&mut self, classes: Vec<ClassId>) -> PoolId {
        if let Some(id) = self.pool_ids.get(&classes) {
            return *id;
        }
        let id = number(self.all.len());
        for class in &classes {
            self.classes[*class as usize].pools.push(id);
        }
        self.pool_ids.insert(classes.clone(), id);
        self.all.push(Pool { classes, ..Pool::default() });
        id
    }

    /// Counts a step of a run as one of this class.
    pub(crate) fn retain(&mut self, class: ClassId) {
        let users = &mut self.classes[class as usize].users;
        self.unused -= usize::from(*users == 0);
        *users += 1;
    }

    /// Takes a step of a run from the count.
    pub(crate) fn release(&mut self, class: ClassId) {
        let users = &mut self.classes[class as usize].users;
        *users -= 1;
        self.unused += usize::from(*users == 0);
    }

    /// Whether so many classes or pools are not used any more that everything should be built again.
    pub(crate) fn is_stale(&self, workers: usize) -> bool {
        let classes = self.unused > UNUSED + self.classes.len() / 2;
        classes || self.all.len() > UNUSED + 2 * workers
    }

    /// The first requirement of a class that a worker does not meet.
    pub(crate) fn lacks(&self, class: ClassId, worker: &Worker) -> Option<String> {
        self.classes[class as usize].class.lacks(worker)
    }

    /// Adds a worker that has joined, without listing it.
    pub(crate) fn join(&mut self, worker: &mut Worker) {
        let able = (0..).zip(&self.classes).filter(|(_, of)| of.class.lacks(worker).is_none());
        let classes: Vec<ClassId> = able.map(|(id, _)| id).collect();
        worker.pool = self.pool(classes);
        self.all[worker.pool as usize].members += 1;
    }

    /// Removes a worker.
    pub(crate) fn leave(&mut self, id: WorkerId, worker: &Worker) {
        self.withdraw(id, worker);
        self.all[worker.pool as usize].members -= 1;
    }

    /// Puts a worker into the sets of its pool if it is listed. Whatever these are ordered by may only change between
    /// [`Pools::withdraw`] and this.
    pub(crate) fn offer(&mut self, id: WorkerId, worker: &Worker) {
        if !worker.listed {
            return;
        }
        let pool = &mut self.all[worker.pool as usize];
        pool.listed += 1;
        pool.slots += worker.inventory.slots;
        let place = (worker.load_ratio(), id);
        if let Some(set) = pool.all.of(worker) {
            set.insert(place);
            for what in &worker.warm {
                let warm = match pool.warm.get_mut(what) {
                    Some(warm) => warm,
                    None => pool.warm.entry(what.clone()).or_default(),
                };
                warm.of(worker).expect("as in all").insert(place);
            }
        }
    }

    /// Takes a worker out of the sets of its pool.
    pub(crate) fn withdraw(&mut self, id: WorkerId, worker: &Worker) {
        if !worker.listed {
            return;
        }
        let pool = &mut self.all[worker.pool as usize];
        pool.listed -= 1;
        pool.slots -= worker.inventory.slots;
        let place = (worker.load_ratio(), id);
        if let Some(set) = pool.all.of(worker) {
            set.remove(&place);
            for what in &worker.warm {
                let warm = pool.warm.get_mut(what).expect("it was offered");
                warm.of(worker).expect("as in all").remove(&place);
                if warm.is_empty() {
                    pool.warm.remove(what);
                }
            }
        }
    }

    /// Whether a worker can do a class.
    pub(crate) fn can_do(&self, class: ClassId, worker: &Worker) -> bool {
        self.all[worker.pool as usize].classes.binary_search(&class).is_ok()
    }

    fn of(&self, class: ClassId) -> impl Iterator<Item = &Pool> + Clone {
        self.classes[class as usize].pools.iter().map(|id| &self.all[*id as usize])
    }

    /// Whether any worker can do a class, listed or not.
    pub(crate) fn any_can_do(&self, class: ClassId) -> bool {
        self.of(class).any(|pool| pool.members > 0)
    }

    /// The number of listed workers that can do a class.
    pub(crate) fn listed(&self, class: ClassId) -> u32 {
        self.of(class).map(|pool| pool.listed).sum()
    }

    /// The number of slots of the listed workers that can do a class.
    pub(crate) fn slots(&self, class: ClassId) -> u32 {
        self.of(class).map(|pool| pool.slots).sum()
    }

    /// Lets nothing be queued ahead on workers that can do a class, until [`Pools::await_none`].
    pub(crate) fn set_awaited(&mut self, class: ClassId) {
        for id in &self.classes[class as usize].pools {
            self.all[*id as usize].awaited = true;
        }
    }

    /// Lets tasks be queued ahead everywhere again.
    pub(crate) fn await_none(&mut self) {
        for pool in &mut self.all {
            pool.awaited = false;
        }
    }

    /// The best listed worker with capacity that is not to be avoided: one with a free slot, then one that has loaded
    /// what the task needs, then the one with the lowest load, on which the run has failed least.
    pub(crate) fn best(
        &self,
        search: &Search<'_>,
        avoid: impl Fn(WorkerId) -> bool,
    ) -> Option<WorkerId> {
        for full in [false, true] {
            if full && !search.ahead {
                break;
            }
            let pools = self.of(search.class).filter(|pool| !(full && pool.awaited));
            let warm = pools.clone().filter_map(|pool| pool.warm.get(search.loads?));
            let all = pools.map(|pool| &pool.all);
            let found = best_of(warm, full, search, &avoid);
            if let Some(found) = found.or_else(|| best_of(all, full, search, &avoid)) {
                return Some(found);
            }
        }
        None
    }
}

/// The best worker of these sets.
fn best_of<'a>(
    sets: impl Iterator<Item = &'a Capacity>,
    full: bool,
    search: &Search<'_>,
    avoid: &impl Fn(WorkerId) -> bool,
) -> Option<WorkerId> {
    let first = |set: &BTreeSet<(u32, WorkerId)>| {
        let mut best: Option<(u32, u32, WorkerId)> = None;
        for (load, id) in set {
            if best.is_some_and(|best| best.0 < *load) {
                break;
            }
            if avoid(*id) {
                continue;
            }
            let failures = search.failures.get(id).copied().unwrap_or(0);
            let this = (*load, failures, *id);
            best = Some(best.map_or(this, |best| best.min(this)));
            if failures == 0 {
                break;
            }
        }
        best
    };
    let best = sets.filter_map(|of| first(if full { &of.full } else { &of.free })).min();
    best.map(|(_, _, id)| id)
}

fn number(len: usize) -> u32 {
    u32::try_from(len).expect("there are fewer workers and steps")
}
