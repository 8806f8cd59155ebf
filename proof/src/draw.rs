//! Draws: what nobody may know before a worker has committed itself, and everybody can repeat afterwards. Each is a
//! keyed hash (BLAKE3) of the commitment under a secret of the server, with the purpose as its label, read as a stream
//! of numbers. The arithmetic is that of integers: the same bytes give the same draw for ever.

use crate::hex::Commitment;
use pictor_tasks::message::WorkerId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The share of checks that are canaries: results known to be good or bad, which tell good checkers from others.
pub const CANARY_RATE: Rate = Rate(50_000);

/// A probability in millionths, 0 to 1,000,000. Larger numbers mean certainty.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Rate(pub u32);

impl Rate {
    /// Certainty.
    pub const ALWAYS: Self = Self(1_000_000);

    /// A fraction, rounded up, at most certainty. What is divided by zero is certain, unless it is zero itself.
    pub fn of(numerator: u64, denominator: u64) -> Self {
        if numerator >= denominator {
            return if numerator == 0 { Self(0) } else { Self::ALWAYS };
        }
        let millionths =
            (u128::from(numerator) * u128::from(Self::ALWAYS.0)).div_ceil(u128::from(denominator));
        Self(u32::try_from(millionths).unwrap_or(Self::ALWAYS.0))
    }
}

/// What is drawn. Draws for different purposes have nothing to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Whether a task is checked at all.
    Check,
    /// Which crops are checked.
    Crops,
    /// Who checks.
    Checker,
    /// Whether a checker gets a canary too, and of which kind.
    Canary,
    /// Who decides a dispute.
    Dispute,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Check => b"check",
            Self::Crops => b"crops",
            Self::Checker => b"checker",
            Self::Canary => b"canary",
            Self::Dispute => b"dispute",
        }
    }
}

/// The server's secret. Who knows it knows every draw as soon as a commitment is there.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret of 32 bytes that the caller drew at random, or has stored.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Starts a draw about a commitment. `round` tells apart what is drawn more than once for one purpose: the second
    /// checker, the third.
    pub fn draw(&self, purpose: Purpose, about: &Commitment, round: u32) -> Draw {
        let mut hash = blake3::Hasher::new_keyed(&self.0);
        hash.update(b"pictor draw 1\0").update(purpose.label()).update(b"\0");
        hash.update(&round.to_le_bytes()).update(&about.0);
        Draw(hash.finalize_xof())
    }

    /// Whether a task is checked, at a rate. For one commitment, what is checked at a rate is checked at every higher
    /// one.
    pub fn checks(&self, about: &Commitment, rate: Rate) -> bool {
        self.draw(Purpose::Check, about, 0).hits(rate)
    }

    /// Whether the checker of one round gets a canary as well ([`CANARY_RATE`]), good or bad with equal probability.
    pub fn canary(&self, about: &Commitment, round: u32) -> Option<Canary> {
        let mut draw = self.draw(Purpose::Canary, about, round);
        let hit = draw.hits(CANARY_RATE);
        let kind = if draw.below(2) == 0 { Canary::KnownGood } else { Canary::KnownBad };
        hit.then_some(kind)
    }

    /// Chooses among candidates by their weights; the order in which they are given does not matter. Whoever was
    /// chosen in an earlier round, the caller leaves out. `None` if none has a weight.
    pub fn choose(
        &self,
        purpose: Purpose,
        about: &Commitment,
        round: u32,
        candidates: &[Candidate],
    ) -> Option<WorkerId> {
        let mut sorted = candidates.to_vec();
        sorted.sort_by_key(|candidate| (candidate.worker, candidate.weight));
        sorted.dedup_by_key(|candidate| candidate.worker);
        let weights = sorted.iter().map(|candidate| candidate.weight);
        let chosen = self.draw(purpose, about, round).weighted(weights)?;
        Some(sorted[chosen].worker)
    }
}

/// A result whose verdict is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Canary {
    /// It must be accepted.
    KnownGood,
    /// It must be rejected.
    KnownBad,
}

/// Who may be chosen to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The worker.
    pub worker: WorkerId,
    /// How often it is chosen in relation to others; 0 for never.
    pub weight: u64,
}

/// A stream of numbers that nobody can foresee without the secret.
pub struct Draw(blake3::OutputReader);

impl Draw {
    fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `n`, each with the same probability; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        let Some(rest) = u64::MAX.checked_rem(n) else { return 0 };
        // The last, incomplete multiple of `n` would prefer small numbers.
        loop {
            let number = self.next();
            if number < u64::MAX - rest {
                return number % n;
            }
        }
    }

    /// Whether something of a probability happens.
    pub fn hits(&mut self, rate: Rate) -> bool {
        self.below(u64::from(Rate::ALWAYS.0)) < u64::from(rate.0)
    }

    /// The position of one of some weights, each with a probability in proportion to it; `None` if all are zero. A sum
    /// beyond 64 bits counts as the largest number, so that weights at the end lose.
    pub fn weighted(&mut self, weights: impl Iterator<Item = u64> + Clone) -> Option<usize> {
        let sum = weights.clone().fold(0, u64::saturating_add);
        let mut left = self.below(sum);
        for (position, weight) in weights.enumerate() {
            if left < weight {
                return Some(position);
            }
            left -= weight;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret() -> Secret {
        Secret::new([7; 32])
    }

    #[test]
    fn rates_are_rounded_up_and_never_exceed_certainty() {
        let rates = [(0, 0), (0, 5), (1, 0), (1, 3), (5, 5), (9, 5), (1, u64::MAX)];
        let millionths = rates.map(|(a, b)| Rate::of(a, b).0);
        assert_eq!(millionths, [0, 0, 1_000_000, 333_334, 1_000_000, 1_000_000, 1]);
    }

    #[test]
    fn purposes_rounds_and_secrets_give_other_numbers() {
        let about = Commitment([1; 32]);
        let mut seen = std::collections::BTreeSet::new();
        let purposes =
            [Purpose::Check, Purpose::Crops, Purpose::Checker, Purpose::Canary, Purpose::Dispute];
        for secret in [secret(), Secret::new([8; 32])] {
            for (purpose, round) in purposes.into_iter().flat_map(|p| [(p, 0), (p, 1)]) {
                assert!(seen.insert(secret.draw(purpose, &about, round).next()));
            }
        }
        assert_eq!(format!("{:?}", secret()), "Secret");
    }

    #[test]
    fn shares_are_as_drawn() {
        let commitments = (0..20_000_u32).map(|i| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&i.to_le_bytes());
            Commitment(bytes)
        });
        let (mut checked, mut bad, mut good, mut heavy) = (0, 0, 0, 0);
        let candidate = |worker, weight| Candidate { worker: WorkerId(worker), weight };
        let candidates = [candidate(1, 0), candidate(3, 3), candidate(2, 1)];
        for about in commitments {
            checked += u32::from(secret().checks(&about, Rate(100_000)));
            bad += u32::from(secret().canary(&about, 0) == Some(Canary::KnownBad));
            good += u32::from(secret().canary(&about, 0) == Some(Canary::KnownGood));
            let chosen = secret().choose(Purpose::Checker, &about, 0, &candidates).unwrap();
            assert_ne!(chosen, WorkerId(1));
            heavy += u32::from(chosen == WorkerId(3));
        }
        // Each within five standard deviations.
        assert!(checked.abs_diff(2_000) < 212, "{checked}");
        assert!(bad.abs_diff(500) < 111 && good.abs_diff(500) < 111, "{bad} {good}");
        assert!(heavy.abs_diff(15_000) < 306, "{heavy}");
    }

    #[test]
    fn no_number_and_no_worker_is_preferred() {
        let mut draw = secret().draw(Purpose::Check, &Commitment([2; 32]), 0);
        // Three quarters of all numbers of 64 bits: a plain remainder would give half of them, not a third.
        let most = 3 << 62;
        let low = (0..2_000).filter(|_| draw.below(most) < most / 3).count();
        assert!(low.abs_diff(667) < 106, "{low}");
        let candidate = |worker| Candidate { worker: WorkerId(worker), weight: 1 };
        let twice = [candidate(1), candidate(2), candidate(1)];
        let choose = |round| secret().choose(Purpose::Checker, &Commitment([2; 32]), round, &twice);
        let first = (0..2_000).filter(|round| choose(*round) == Some(WorkerId(1))).count();
        assert!(first.abs_diff(1_000) < 112, "named twice, but not chosen more often: {first}");
    }

    proptest! {
        #[test]
        fn draws_stay_in_bounds(bytes: [u8; 32], n: u64, weights: Vec<u64>, rate in 0..=1_000_000_u32) {
            let about = Commitment(bytes);
            let mut draw = secret().draw(Purpose::Crops, &about, 0);
            prop_assert!(draw.below(n) < n.max(1));
            match draw.weighted(weights.iter().copied()) {
                Some(at) => prop_assert!(weights[at] > 0),
                None => prop_assert!(weights.iter().all(|w| *w == 0)),
            }
            prop_assert!(secret().checks(&about, Rate::ALWAYS));
            prop_assert!(!secret().checks(&about, Rate(0)));
            let higher = Rate(rate.saturating_add(1_000));
            prop_assert!(!secret().checks(&about, Rate(rate)) || secret().checks(&about, higher));
        }

        #[test]
        fn the_order_of_candidates_does_not_matter(
            bytes: [u8; 32],
            mut weights in proptest::collection::vec(0..9_u64, 1..9),
        ) {
            weights[0] += 1;
            let mut candidates: Vec<_> = (0..).zip(&weights)
                .map(|(i, weight)| Candidate { worker: WorkerId(i), weight: *weight })
                .collect();
            let choose = |c: &[Candidate]| secret().choose(Purpose::Dispute, &Commitment(bytes), 2, c);
            let first = choose(&candidates);
            prop_assert!(first.is_some());
            candidates.reverse();
            prop_assert_eq!(choose(&candidates), first);
        }
    }
}
