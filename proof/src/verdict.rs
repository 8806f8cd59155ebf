//! How several checkers decide. Each seals its verdict before any is revealed, so nobody can follow the others; a
//! verdict names the checker's own pixels, so it cannot be guessed.

use crate::hex::{Commitment, Digest, Nonce, PublicKey};
use pictor_tasks::message::WorkerId;
use serde::{Deserialize, Serialize};

/// The context of a seal's hash (BLAKE3's key derivation mode).
const SEAL_CONTEXT: &str = "pictor 2026-11-30 verdict 1";
/// How many new checkers decide a dispute.
pub const DISPUTE_SEATS: usize = 3;

/// What a checker says about a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    /// It is the assigned work.
    Accept,
    /// It is not.
    Reject,
    /// This checker cannot tell.
    Unsure,
}

/// A checker's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What it says.
    pub vote: Vote,
    /// The Merkle root over the checker's own pixels.
    pub pixels: Digest,
    /// The digest of the measures on which it is based.
    pub measures: Digest,
}

impl Verdict {
    /// The seal that a checker sends first: the hash of what it judges, who it is, the verdict, and a nonce that hides
    /// it until it is revealed.
    pub fn seal(&self, about: &Commitment, checker: &PublicKey, nonce: &Nonce) -> Digest {
        let vote = match self.vote {
            Vote::Accept => 0,
            Vote::Reject => 1,
            Vote::Unsure => 2,
        };
        let mut hash = blake3::Hasher::new_derive_key(SEAL_CONTEXT);
        hash.update(&about.0).update(&checker.0).update(&[vote]);
        hash.update(&self.pixels.0).update(&self.measures.0).update(&nonce.0);
        Digest(hash.finalize().into())
    }

    /// Whether a revealed verdict is the one that was sealed.
    pub fn opens(
        &self,
        seal: &Digest,
        about: &Commitment,
        checker: &PublicKey,
        nonce: &Nonce,
    ) -> bool {
        self.seal(about, checker, nonce) == *seal
    }
}

/// A checker's vote, revealed and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// The checker.
    pub checker: WorkerId,
    /// Its vote.
    pub vote: Vote,
}

/// What more than half of the seats say: [`Vote::Accept`] or [`Vote::Reject`]. `None` as long as neither has a
/// majority: another checker is needed. The first vote of a checker counts; a missing one and [`Vote::Unsure`] count
/// for neither. The order of different checkers does not matter.
pub fn decide(seats: usize, ballots: &[Ballot]) -> Option<Vote> {
    let is_first = |at: usize| ballots[..at].iter().all(|b| b.checker != ballots[at].checker);
    let votes =
        |vote| (0..ballots.len()).filter(|at| is_first(*at) && ballots[*at].vote == vote).count();
    match (votes(Vote::Accept), votes(Vote::Reject)) {
        (yes, no) if 2 * yes > seats && yes > no => Some(Vote::Accept),
        (yes, no) if 2 * no > seats && no > yes => Some(Vote::Reject),
        _ => None,
    }
}

/// The checkers that said the opposite of what was decided, in the order of their ballots: those of the dispute, or
/// those before it.
pub fn wrong(decided: Vote, ballots: &[Ballot]) -> Vec<WorkerId> {
    let opposes = |vote| {
        matches!((decided, vote), (Vote::Accept, Vote::Reject) | (Vote::Reject, Vote::Accept))
    };
    ballots.iter().filter(|ballot| opposes(ballot.vote)).map(|ballot| ballot.checker).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VOTES: [Vote; 3] = [Vote::Accept, Vote::Reject, Vote::Unsure];

    fn ballots(votes: &[Vote]) -> Vec<Ballot> {
        (0..).zip(votes).map(|(id, vote)| Ballot { checker: WorkerId(id), vote: *vote }).collect()
    }

    #[test]
    fn a_seal_binds_everything() {
        let verdict =
            Verdict { vote: Vote::Accept, pixels: Digest([1; 32]), measures: Digest([2; 32]) };
        let (about, checker, nonce) = (Commitment([3; 32]), PublicKey([4; 32]), Nonce([5; 32]));
        let seal = verdict.seal(&about, &checker, &nonce);
        assert!(verdict.opens(&seal, &about, &checker, &nonce));
        for vote in [Vote::Reject, Vote::Unsure] {
            assert!(!Verdict { vote, ..verdict }.opens(&seal, &about, &checker, &nonce));
        }
        let other = Digest([9; 32]);
        assert!(!Verdict { pixels: other, ..verdict }.opens(&seal, &about, &checker, &nonce));
        assert!(!Verdict { measures: other, ..verdict }.opens(&seal, &about, &checker, &nonce));
        assert!(!verdict.opens(&seal, &Commitment([9; 32]), &checker, &nonce));
        assert!(!verdict.opens(&seal, &about, &PublicKey([9; 32]), &nonce));
        assert!(!verdict.opens(&seal, &about, &checker, &Nonce([9; 32])));
    }

    #[test]
    fn the_majority_of_the_seats_decides() {
        use Vote::{Accept as Y, Reject as N, Unsure as U};
        for (seats, votes, decided) in [
            (1, &[Y][..], Some(Y)),
            (1, &[U], None),
            (2, &[Y, N], None),
            (2, &[N, N], Some(N)),
            (3, &[Y], None),
            (3, &[Y, Y], Some(Y)),
            (3, &[N, Y, N], Some(N)),
            (3, &[N, Y, U], None),
            (0, &[Y, N], None),
            (3, &[], None),
        ] {
            assert_eq!(decide(seats, &ballots(votes)), decided, "{seats} {votes:?}");
        }
        let twice = [Ballot { checker: WorkerId(1), vote: Y }; 3];
        assert_eq!(decide(3, &twice), None, "a checker has one vote");
        assert_eq!(wrong(Y, &ballots(&[Y, N, U, N])), [WorkerId(1), WorkerId(3)]);
        assert_eq!(wrong(N, &ballots(&[Y, N, U])), [WorkerId(0)]);
        assert_eq!(wrong(U, &ballots(&[Y, N, U])), []);
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(votes in proptest::collection::vec(0..3_usize, 0..7), seats in 0..7_usize) {
            let mut all = ballots(&votes.iter().map(|v| VOTES[*v]).collect::<Vec<_>>());
            let decided = decide(seats, &all);
            all.reverse();
            prop_assert_eq!(decide(seats, &all), decided);
            let opposite = all.iter().map(|ballot| Ballot {
                vote: match ballot.vote {
                    Vote::Accept => Vote::Reject,
                    Vote::Reject => Vote::Accept,
                    Vote::Unsure => Vote::Unsure,
                },
                ..*ballot
            });
            let mirrored = decide(seats, &opposite.collect::<Vec<_>>());
            prop_assert!(matches!(
                (decided, mirrored),
                (None, None)
                    | (Some(Vote::Accept), Some(Vote::Reject))
                    | (Some(Vote::Reject), Some(Vote::Accept))
            ));
        }
    }
}
