//! The dependency rule as arithmetic: a task waits for the tasks of the needed step that have the same values in all
//! dimensions that the two steps share. The shared dimensions span a space of *points*; each point joins some tasks of
//! the producer to some tasks of the consumer. No edge is ever stored.

use super::{Need, Plan};
use pictor_tasks::space::Space;

/// A dimension that producer and consumer share, at the coarser of their two resolutions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shared {
    consumer_axis: usize,
    producer_axis: usize,
    /// The number of positions of the consumer's axis in one position of the shared axis.
    consumer_per: u32,
    producer_per: u32,
    /// The distance of the needed point from the consumer's own.
    offset: i32,
    /// The number of positions of the shared axis.
    len: u32,
}

/// The strides and lengths of a space, computed once for the hot path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grid {
    lens: Vec<u32>,
    strides: Vec<u32>,
}

impl Grid {
    pub(crate) fn new(space: &Space) -> Self {
        let lens: Vec<u32> = space.axes.iter().map(|a| a.values.len()).collect();
        let strides = (0..lens.len()).map(|i| lens[i + 1..].iter().product()).collect();
        Self { lens, strides }
    }

    fn position(&self, index: u32, axis: usize) -> u32 {
        index / self.strides[axis] % self.lens[axis]
    }

    /// Calls `visit` with every index whose position on each axis is within that axis' range.
    fn visit(&self, ranges: &[(u32, u32)], visit: &mut impl FnMut(u32)) {
        fn walk(
            grid: &Grid,
            ranges: &[(u32, u32)],
            axis: usize,
            base: u32,
            visit: &mut impl FnMut(u32),
        ) {
            let Some(&(from, to)) = ranges.get(axis) else { return visit(base) };
            for position in from..to {
                walk(grid, ranges, axis + 1, base + position * grid.strides[axis], visit);
            }
        }
        walk(self, ranges, 0, 0, visit);
    }

    /// The first wanted index within the ranges, among the first `limit` of them.
    fn search(
        &self,
        ranges: &[(u32, u32)],
        limit: u32,
        wanted: &impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let lens = ranges.iter().map(|(from, to)| u64::from(to.saturating_sub(*from)));
        let count = lens.product::<u64>().min(limit.into());
        (0..count).find_map(|number| {
            let mut rest = number;
            let axes = ranges.iter().zip(&self.strides).rev();
            let index = axes.fold(0, |index, ((from, to), stride)| {
                let len = u64::from(to - from);
                let position = from + u32::try_from(rest % len).expect("below a length");
                rest /= len;
                index + position * stride
            });
            wanted(index).then_some(index)
        })
    }

    fn everything(&self) -> Vec<(u32, u32)> {
        self.lens.iter().map(|len| (0, *len)).collect()
    }
}

/// A need, prepared for arithmetic over two concrete spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Join {
    pub(crate) consumer: u16,
    pub(crate) producer: u16,
    pub(crate) soft: bool,
    shared: Vec<Shared>,
    consumer_grid: Grid,
    producer_grid: Grid,
}

impl Join {
    /// The join for a `need` of the step `consumer`, over the steps' current spaces. A step with an unbound dimension
    /// has no space: it counts as one imaginary task that everything waits for.
    pub(crate) fn new(
        plan: &Plan,
        (consumer, need): (u16, &Need),
        consumer_space: Option<&Space>,
        producer_space: Option<&Space>,
    ) -> Self {
        let consumer_grid = consumer_space.map(Grid::new).unwrap_or_default();
        let producer_grid = producer_space.map(Grid::new).unwrap_or_default();
        let mut shared = Vec::new();
        if consumer_space.is_some() && producer_space.is_some() {
            let producer_over = &plan.steps[need.step as usize].over;
            for (consumer_axis, &ours) in plan.steps[consumer as usize].over.iter().enumerate() {
                let (root, our_scale) = plan.root(ours);
                for (producer_axis, &theirs) in producer_over.iter().enumerate() {
                    let (their_root, their_scale) = plan.root(theirs);
                    if root != their_root {
                        continue;
                    }
                    let scale = our_scale.max(their_scale);
                    let per = |own: u64| u32::try_from(scale / own).unwrap_or(u32::MAX);
                    let offset = need.offsets.iter().find(|(dim, _)| *dim == ours);
                    let coarse = if our_scale >= their_scale {
                        consumer_grid.lens[consumer_axis]
                    } else {
                        producer_grid.lens[producer_axis]
                    };
                    shared.push(Shared {
                        consumer_axis,
                        producer_axis,
                        consumer_per: per(our_scale),
                        producer_per: per(their_scale),
                        offset: offset.map_or(0, |(_, by)| *by),
                        len: coarse,
                    });
                }
            }
        }
        let (producer, soft) = (need.step, need.soft);
        Self { consumer, producer, soft, shared, consumer_grid, producer_grid }
    }

    /// The number of points.
    pub(crate) fn points(&self) -> u32 {
        self.shared.iter().map(|s| s.len).product()
    }

    /// The point that a task of the producer belongs to.
    pub(crate) fn point_of_producer(&self, index: u32) -> u32 {
        self.shared.iter().fold(0, |point, s| {
            let position = self.producer_grid.position(index, s.producer_axis) / s.producer_per;
            point * s.len + position
        })
    }

    /// The point that a task of the consumer waits for; `None` if it is beyond either end, in which case the need is
    /// satisfied.
    pub(crate) fn point_of_consumer(&self, index: u32) -> Option<u32> {
        self.shared.iter().try_fold(0, |point, s| {
            let own = self.consumer_grid.position(index, s.consumer_axis) / s.consumer_per;
            let position = own.checked_add_signed(s.offset).filter(|p| *p < s.len)?;
            Some(point * s.len + position)
        })
    }

    /// Calls `visit` with every index of the consumer (holes included) that waits for the point.
    pub(crate) fn consumers(&self, point: u32, visit: &mut impl FnMut(u32)) {
        let mut ranges = self.consumer_grid.everything();
        let mut rest = point;
        for s in self.shared.iter().rev() {
            let position = rest % s.len;
            rest /= s.len;
            let Some(own) = position.checked_sub_signed(s.offset).filter(|p| *p < s.len) else {
                return;
            };
            let len = self.consumer_grid.lens[s.consumer_axis];
            let from = own * s.consumer_per;
            ranges[s.consumer_axis] = (from, from.saturating_add(s.consumer_per).min(len));
        }
        self.consumer_grid.visit(&ranges, visit);
    }

    /// Calls `visit` with every index of the producer (holes included) that belongs to the point.
    pub(crate) fn producers(&self, point: u32, visit: &mut impl FnMut(u32)) {
        self.producer_grid.visit(&self.producer_ranges(point), visit);
    }

    /// The first wanted index of the producer in the point, among the first `limit` that belong to it.
    pub(crate) fn find_producer(
        &self,
        point: u32,
        limit: u32,
        wanted: &impl Fn(u32) -> bool,
    ) -> Option<u32> {
        self.producer_grid.search(&self.producer_ranges(point), limit, wanted)
    }

    fn producer_ranges(&self, point: u32) -> Vec<(u32, u32)> {
        let mut ranges = self.producer_grid.everything();
        let mut rest = point;
        for s in self.shared.iter().rev() {
            let position = rest % s.len;
            rest /= s.len;
            let len = self.producer_grid.lens[s.producer_axis];
            let from = position * s.producer_per;
            ranges[s.producer_axis] = (from, from.saturating_add(s.producer_per).min(len));
        }
        ranges
    }
}
