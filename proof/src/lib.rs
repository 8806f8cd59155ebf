//! How the result of a stranger's GPU is verified: what a worker signs ([`manifest`], [`evidence`]), what binds it to
//! its pixels ([`pixels`]), what is checked and by whom ([`draw`], [`crops`]), how two renders are compared
//! ([`thresholds`], [`compare`], [`judge`]), what costs nothing to check ([`free`]), how trust grows and is lost
//! ([`streak`], [`checker`]), and how several checkers decide ([`verdict`]). Pure: no I/O, no clock, no randomness of
//! its own. The bytes of manifests, roots, commitments and draws never change, because history is replayed from them.

pub mod checker;
pub mod compare;
pub mod crops;
pub mod draw;
pub mod evidence;
pub mod free;
pub mod hex;
pub mod judge;
pub mod manifest;
pub mod pixels;
pub mod streak;
pub mod thresholds;
pub mod verdict;
