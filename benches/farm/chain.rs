//! A chain: one hop is a commit and two messages, and nothing can be done in parallel.

use crate::floors::{Commits, Relay, Trips};
use crate::served::{Served, Services};
use pictor_benches::table::{Series, head, line, verdict};
use pictor_benches::{floor, jobs};
use pictor_test_servers::Queues;

const ROUNDS: usize = 22;
const HOPS: u32 = 100;

/// A hop over one type of queue, and its baselines.
struct Hop {
    farm: Served,
    trips: Trips,
    relay: Relay,
    store: floor::Commits,
}

impl Hop {
    async fn open(services: &Services, name: &str, queues: Queues) -> Self {
        let mut farm = Served::start_over(services, name, queues).await;
        farm.start_worker().await;
        let url = || services.rabbit.vhost_of(queues).amqp_url;
        Self {
            farm,
            trips: Trips::open(&url()).await,
            relay: Relay::open(&url()).await,
            store: floor::Commits::open_at(&services.postgres.database()).await,
        }
    }

    /// Measures one of them, in milliseconds: the hop, a message, or the hop without an engine.
    async fn measure(&mut self, which: usize) -> f64 {
        match which {
            0 => self.farm.pace_ms(&jobs::chain(HOPS)).await,
            1 => {
                let mut seconds = 0.0;
                for _ in 0..HOPS {
                    seconds += self.trips.trip().await;
                }
                seconds * 1e3 / f64::from(HOPS)
            }
            _ => self.relay.hops(&mut self.store, HOPS).await * 1e3 / f64::from(HOPS),
        }
    }
}

/// Measures the chain over classic and over quorum queues.
pub(crate) async fn chain(services: &Services) {
    let mut commits = Commits::open(&services.postgres.database()).await;
    let mut hops = [
        Hop::open(services, "farm-chain-classic", Queues::Classic).await,
        Hop::open(services, "farm-chain-quorum", Queues::Quorum).await,
    ];
    let mut took = <[[Series; 3]; 2]>::default();
    let (mut commit, mut ratios) = <(Series, [[Series; 2]; 2])>::default();
    let mut classic_by_quorum = Series::default();
    for round in 0..ROUNDS {
        let (mut committed, mut took_now) = (0.0, [[0.0; 3]; 2]);
        for turn in 0..7 {
            // The order changes, because the disk has other users.
            match (turn + round) % 7 {
                6 => {
                    for _ in 0..HOPS {
                        committed += commits.commit().await * 1e3 / f64::from(HOPS);
                    }
                }
                which => {
                    let (queues, which) = (which / 3, which % 3);
                    took_now[queues][which] = hops[queues].measure(which).await;
                }
            }
        }
        commit.push(committed);
        for queues in 0..2 {
            let [hop, arrived, bare] = took_now[queues];
            took[queues].iter_mut().zip(took_now[queues]).for_each(|(all, now)| all.push(now));
            ratios[queues][0].push(hop / (committed + 2.0 * arrived));
            ratios[queues][1].push(hop / bare);
        }
        classic_by_quorum.push(took_now[0][0] / (committed + 2.0 * took_now[1][1]));
    }
    head("Farm: a chain of 100 tasks: one hop");
    line("floor: one row, one commit to Postgres", &commit, "ms", "");
    for (queues, ([hop, arrived, bare], [by_floor, by_bare])) in
        ["classic", "quorum"].iter().zip(took.iter().zip(&ratios))
    {
        line(&format!("{queues} queues: hop"), hop, "ms", "");
        line(&format!("{queues} queues: floor: publication to arrival"), arrived, "ms", "");
        line(&format!("{queues} queues: floor: the hop without an engine"), bare, "ms", "");
        let verdict = verdict(by_floor.median() <= 1.3, "≤ 1.3");
        line(&format!("{queues} queues: hop ÷ (commit + two arrivals)"), by_floor, "×", &verdict);
        line(&format!("{queues} queues: hop ÷ the hop without an engine"), by_bare, "×", "");
    }
    let what = "hop over classic queues ÷ (commit + two arrivals over quorum queues)";
    line(what, &classic_by_quorum, "×", "");
}
